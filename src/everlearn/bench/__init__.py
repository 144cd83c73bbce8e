"""Published tables, run anew: each on its standard sets and on any source, resumable, machine and versions said."""
