"""``python -m verbot`` is the command ``verbot``."""

from verbot.cli import main

if __name__ == "__main__":
    main()
