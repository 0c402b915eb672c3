"""Networks: encoders turn what was seen, told and felt into token groups, a fusion joins them, a head reads actions."""
