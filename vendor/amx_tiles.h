// Included by force before ggml's files that use AMX tiles.
//
// gcc's own intrinsics do not say which memory they read: `_tile_loadconfig` of gcc before 14 declares 8 of the 64 bytes of the
// configuration, so that the compiler drops what is written to the others, and the first tile instruction faults; `_tile_loadd`
// and `_tile_stream_loadd` declare none, so that what is written to a tile's memory before may be written later. Here each
// says what it reads. Clang's are functions of the compiler and know.
#pragma once

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>

static inline __attribute__((always_inline)) void curtail_tile_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg %0" ::"m"(*(const char (*)[64]) config));
}

static inline __attribute__((always_inline)) void curtail_tile_storeconfig(void * config) {
    __asm__ volatile("sttilecfg %0" : "=m"(*(char (*)[64]) config));
}

#define _tile_loadconfig curtail_tile_loadconfig
#define _tile_storeconfig curtail_tile_storeconfig

// A tile is a register's number in the instruction's text, so these stay macros. Through `_` variants, since ggml passes macros.
#undef _tile_loadd
#undef _tile_stream_loadd
#define _tile_loadd(tile, base, stride) curtail_tile_load(tileloadd, tile, base, stride)
#define _tile_stream_loadd(tile, base, stride) curtail_tile_load(tileloaddt1, tile, base, stride)
#define curtail_tile_load(instruction, tile, base, stride)                                \
    __asm__ volatile(#instruction " (%0,%1,1), %%tmm" #tile ::"r"((const void *) (base)), \
                     "r"((long) (stride))                                                 \
                     : "memory")

#endif
