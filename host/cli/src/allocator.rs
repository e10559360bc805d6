//! The system's allocator.

/// From this size on a buffer is a mapping of its own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 256 * 1024;

/// Makes each large buffer a mapping of its own, which goes back to the system when it
/// is freed. Without this, glibc raises the threshold to 32 MiB as such buffers are
/// freed, and from then on takes them from its arenas, which keep what they had once.
pub(crate) fn give_back_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the program has one thread yet, and the call only sets a parameter of the
    // allocator. If it is refused, memory stays with the process for longer.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}
