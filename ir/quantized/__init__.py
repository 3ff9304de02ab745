"""Integer operators: `operators` registers them as `planish::`, the other files hold the reference of each."""
