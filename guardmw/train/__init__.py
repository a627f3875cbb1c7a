"""Training guards. Nothing here is imported by the library at run time."""
