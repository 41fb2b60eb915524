//! How threads are scheduled.

/// From now on the calling thread runs only where a core has nothing else to do, and gives way at once; on a busy
/// machine it may hardly run at all. Best effort: where a sandbox refuses it, the thread runs as any other.
pub fn run_in_the_background() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure outlives the call, which only changes how the calling thread is scheduled.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
}
