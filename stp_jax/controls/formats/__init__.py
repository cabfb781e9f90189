"""Forms of camera files, one module for each family; `registry.FORMATS` is the table of them."""
