"""The native backend: kernels in C++ behind a plain C interface, called through ctypes."""
