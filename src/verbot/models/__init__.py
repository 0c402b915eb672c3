"""Networks: encoders turn images, instructions and states into token groups, a fusion joins them, a head predicts actions."""
