"""What a new GPU does with tnt-exp: is the installation right, how fast is it, does it train. See README.md."""
