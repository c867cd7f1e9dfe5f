"""What the Makefile runs besides the linters: budgets, the generated reference, Debian packages."""
