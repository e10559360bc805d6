//! Configuration of the system allocator.

/// Buffers of at least this size get their own memory mapping.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 256 * 1024;

/// Gives each large buffer its own memory mapping, which is returned to the system when it is
/// freed. Without this, glibc raises the threshold to up to 32 MiB as such buffers are freed,
/// and then allocates them from its arenas, which do not shrink.
pub(crate) fn give_back_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the process is still single-threaded, and the call only sets a parameter of the
    // allocator. If it fails, the process keeps freed memory for longer.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}
