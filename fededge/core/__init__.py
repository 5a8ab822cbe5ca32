"""Pure arithmetic on arrays: no files, no network, no clock, no global random state."""
