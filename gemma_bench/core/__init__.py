"""Ground floor, free of tensor libraries: errors, units, files, intervals, machine, records."""
