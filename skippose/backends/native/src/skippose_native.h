// The engine's plain C interface. Descriptions go in once, frames go through skp_run. What it has is
// in interface.def.
#ifndef SKIPPOSE_NATIVE_H
#define SKIPPOSE_NATIVE_H
#include <stdint.h>

#define SKP_API extern "C" __attribute__((visibility("default")))

#define SKP_ENUM(name) enum name {
#define SKP_ENTRY(c_name, name, value) c_name = value,
#define SKP_END_ENUM(name) };
#define SKP_STRUCT(name) struct name {
#define SKP_INT(name) int32_t name;
#define SKP_INT_ARRAY(name, count) int32_t name[count];
#define SKP_FLOAT(name) float name;
#define SKP_INTS(name, count) const int32_t *name;
#define SKP_FLOATS(name, count) const float *name;
#define SKP_BYTES(name) void *name;
#define SKP_LONG(name) int64_t name;
#define SKP_END_STRUCT(name) };
#define SKP_FUNCTION(result, name, ...) SKP_API result name(__VA_ARGS__);
#include "interface.def"

// Read before anything is called: the number of the interface, and what each structure takes, in the
// order of interface.def.
SKP_API const uint64_t skp_interface;
SKP_API const int32_t skp_struct_bytes[];
#endif
