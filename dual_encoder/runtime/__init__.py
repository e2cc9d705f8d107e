"""The processes and devices of a run: the mesh, memory, the compilation cache, signals."""
