//! What the C library's allocator keeps of memory that was freed.
//!
//! glibc keeps freed memory in up to eight arenas per processor, and each large block that is freed raises, to
//! 32 MiB, the size from which blocks are mapped on their own, and with it (to twice that) what an arena keeps at
//! its end. After one request that took 30 MB those 30 MB stay resident, in the arena of whichever thread
//! worked on it, and the next thread takes its own. Under a budget that is counted in resident bytes, memory that
//! was freed has to be gone. (`mallopt(3)`: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX.)

/// Blocks from this size on are mapped on their own: freed, they are gone.
const OWN_MAPPING_BYTES: i32 = 128 << 10;
/// Bytes that stay at the end of the heap.
const KEPT_BYTES: i32 = 256 << 10;

/// Has memory that is freed return to the system. Call it before there are other threads: those that have an
/// arena of their own keep it. Does nothing where the C library is not glibc.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        let settings = [
            (libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES),
            (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
            (libc::M_ARENA_MAX, 1),
        ];
        for (name, value) in settings {
            // SAFETY: mallopt takes two integers, and a lock; it fails, with 0, on values it does not take.
            unsafe { libc::mallopt(name, value) };
        }
    }
}

/// Gives whole free pages between blocks that are in use back to the system. Takes a millisecond or so for each
/// 100 MB of heap, during which nobody else allocates.
pub fn trim() {
    // SAFETY: malloc_trim takes the number of bytes to leave at the end, and the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
