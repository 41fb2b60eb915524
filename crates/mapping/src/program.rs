//! Pages of the program itself: its file's pages are charged like any others.
//!
//! A fault in the program or a library reads the disk's readahead around the page (8 MiB on some disks),
//! most of which nobody maps: no counter of the process shows it, and the memory group is charged for it.
//! Measured with a program of 80 MB that was not in the page cache: 15 MB more than without.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;

use crate::evict::drop_unmapped;
use crate::process_files::header;
use crate::sys;
use crate::system_root::SystemRoot;

/// Lets go of what was read ahead of the program's and its libraries' pages, and has their next faults read
/// no more than they need. Pages that are mapped, by whomever, stay. Best effort: false where `/proc` says
/// nothing.
pub fn release_program_read_ahead() -> bool {
    let Ok(text) = SystemRoot::default().read("/proc/self/maps") else { return false };
    let mut last = "";
    for part in text.lines().filter_map(header) {
        // A path that has been deleted or replaced since is another file's: harmless, its pages come back.
        if part.inode == 0 || !part.permissions.contains('x') || part.permissions.contains('w') {
            continue;
        }
        let (Ok(start), Ok(end)) = (usize::try_from(part.start), usize::try_from(part.end)) else {
            continue;
        };
        if let Some(base) = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(start)) {
            // SAFETY: this advice changes no byte, whatever is mapped there by now.
            let _ = unsafe { sys::madvise(base, end.saturating_sub(start), libc::MADV_RANDOM) };
        }
        if part.path != last
            && let Ok(file) = File::open(Path::new(part.path))
        {
            let _ = drop_unmapped(&file);
        }
        last = part.path;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cached_pages;

    #[test]
    fn the_program_runs_on_and_keeps_only_what_is_mapped() {
        let program = File::open("/proc/self/exe").unwrap();
        // Just linked, its pages may not be on the disk yet, and such pages cannot be dropped.
        program.sync_data().unwrap();
        // All of it into the page cache, by reading.
        std::io::copy(&mut &program, &mut std::io::sink()).unwrap();
        let before = cached_pages(&program).unwrap().resident_bytes();
        assert!(release_program_read_ahead());
        let after = cached_pages(&program).unwrap().resident_bytes();
        assert!(after < before, "{after} of {before} bytes are still cached");
    }
}
