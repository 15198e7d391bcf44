"""Many runs as one: what is run, where, what became of it, and how to go on after a break."""
