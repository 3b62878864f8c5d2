"""Work that runs beside a stage, on CPUs that the stage leaves free."""
