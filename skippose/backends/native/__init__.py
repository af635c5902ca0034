"""The native engine: kernels in C++ behind a plain C interface, called through ctypes."""
