"""A small floor for tests of the navigation world: two objects, a line, and a robot that can be put anywhere."""

from verbot.envs.navigation.world import Line, NavigationObject, NavigationScene, World

POST = NavigationObject("red", "circle", (1.6, 1.6))
FAR = NavigationObject("blue", "square", (2.5, 0.7))
LINE = Line("yellow", tuple((0.4 + 0.05 * i, 2.8) for i in range(21)))


def rover(x_m=0.4, y_m=0.4, heading_rad=0.0, arm_raised=False, objects=(POST, FAR), lines=(LINE,)):
    return World(NavigationScene(tuple(objects), tuple(lines), (x_m, y_m), heading_rad, arm_raised))


def place(world, x_m, y_m, heading_rad=0.0):
    world.x_m, world.y_m, world.heading_rad = x_m, y_m, heading_rad
