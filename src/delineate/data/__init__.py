"""Reading and writing files, and the tables and checks built on them."""
