//! Opening model files, knowing them again, and where they lie on the disk.
#![allow(unsafe_code, reason = "mkfifo, setfsuid")]

mod common;

use std::ffi::CString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::TempDir;
use lowtide_mapping::{Change, Error, FileIdentity, disk_extents, open_model_file};

fn refusal(path: impl AsRef<Path>) -> String {
    let error = open_model_file(path).unwrap_err().to_string();
    println!("{error}");
    error
}

#[test]
fn what_is_no_model_file_says_what_it_is() {
    let dir = TempDir::new();
    assert!(refusal(dir.path("")).contains("is a directory"));
    assert!(refusal("/dev/random").contains("is a character device"));
    assert!(refusal("/dev/zero").contains("is a character device"));
    assert!(refusal("/proc/self/status").contains("is a file of /proc"));
    assert!(refusal("/sys/kernel/mm/transparent_hugepage/enabled").contains("is a file of /sys"));
    assert!(refusal(dir.path("missing")).contains("there is no such file"));
    assert!(refusal("").contains("there is no such file"));
    assert!(refusal(dir.path("a\0b")).contains("NUL"));
    assert!(refusal(dir.path(&"x".repeat(5000))).contains("too long"));
    let file = dir.file("file", 10);
    assert!(refusal(file.join("below")).contains("not a directory"));
    File::create(dir.path("empty")).unwrap();
    assert!(refusal(dir.path("empty")).contains("is empty"));
    std::os::unix::fs::symlink(dir.path("b"), dir.path("a")).unwrap();
    std::os::unix::fs::symlink(dir.path("a"), dir.path("b")).unwrap();
    assert!(refusal(dir.path("a")).contains("in a circle"));
    // A short path: a socket's is limited.
    let socket = std::env::temp_dir().join(format!("lowtide-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&socket).unwrap();
    let text = refusal(&socket);
    drop(listener);
    std::fs::remove_file(&socket).unwrap();
    assert!(text.contains("is a socket"));
}

#[test]
fn a_fifo_does_not_hang_the_opener() {
    let dir = TempDir::new();
    let path = dir.path("fifo");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: `name` is a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(refusal(&path).contains("is a FIFO"));
}

#[test]
fn no_permission() {
    let dir = TempDir::new();
    let path = dir.file("secret", 10);
    std::fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    // For root there is no permission to lack; one thread of it can look at files as nobody.
    std::thread::spawn(move || {
        // SAFETY: changes how this thread, which ends here, is seen by file systems.
        unsafe { libc::setfsuid(65534) };
        let text = refusal(&path);
        assert!(text.contains("no permission"), "{text}");
    })
    .join()
    .unwrap();
}

#[test]
fn a_model_file_is_found_through_links_and_is_blocking() {
    use std::os::fd::AsRawFd;
    let dir = TempDir::new();
    let path = dir.file("model", 1000);
    std::os::unix::fs::symlink(&path, dir.path("link")).unwrap();
    let model = open_model_file(dir.path("link")).unwrap();
    assert_eq!((model.size(), model.path()), (1000, dir.path("link").as_path()));
    // SAFETY: F_GETFL takes no pointer.
    let flags = unsafe { libc::fcntl(model.file().as_raw_fd(), libc::F_GETFL) };
    assert_eq!(flags & libc::O_NONBLOCK, 0);
    model.check_unchanged().unwrap();
}

#[test]
fn changes_are_seen_and_renames_are_none() {
    let dir = TempDir::new();
    let path = dir.file("model", 1000);
    let model = open_model_file(&path).unwrap();
    let before = model.identity();
    assert_eq!(before.changed(model.file()).unwrap(), None);

    // Replaced by rename, then unlinked: we keep the old inode.
    let other = dir.file("other", 500);
    std::fs::rename(&other, &path).unwrap();
    assert_eq!(before.changed(model.file()).unwrap(), None);
    let replaced = open_model_file(&path).unwrap();
    assert_eq!(before.changed(replaced.file()).unwrap(), Some(Change::Replaced));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(before.changed(model.file()).unwrap(), None);

    let path = dir.file("second", 1000);
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    let model = open_model_file(&path).unwrap();
    let identity = FileIdentity::of(model.file()).unwrap();
    // Longer than the tick of the clock that stamps files.
    std::thread::sleep(std::time::Duration::from_millis(30));
    writer.seek(SeekFrom::Start(10)).unwrap();
    writer.write_all(b"x").unwrap();
    assert_eq!(identity.changed(model.file()).unwrap(), Some(Change::Overwritten));
    writer.set_len(2000).unwrap();
    let grown = Change::Grown { from: 1000, to: 2000 };
    assert_eq!(identity.changed(model.file()).unwrap(), Some(grown));
    writer.set_len(10).unwrap();
    let cut = Change::Truncated { from: 1000, to: 10 };
    assert_eq!(identity.changed(model.file()).unwrap(), Some(cut));
    let error = model.check_unchanged().unwrap_err();
    assert!(error.is_model_fault());
    let text = error.to_string();
    assert!(text.contains("second") && text.contains("truncated from 1000 to 10"), "{text}");
}

#[test]
fn extents_cover_the_file() {
    let dir = TempDir::new();
    let size = 3 << 20;
    let path = dir.file("model", size);
    let file = File::open(&path).unwrap();
    let extents = match disk_extents(&file, 0..size as u64) {
        Ok(extents) => extents,
        // The error is the right answer on such a file system.
        Err(Error::ExtentsUnsupported { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    println!("{extents:?}");
    let mut at = 0;
    for extent in &extents {
        assert_eq!(extent.file_offset, at, "no hole");
        assert!(extent.length > 0 && extent.disk_offset.is_some_and(|offset| offset > 0));
        assert!(!extent.unwritten && !extent.encoded);
        at += extent.length;
    }
    assert!(at >= size as u64);
    let part = disk_extents(&file, 1 << 20..(1 << 20) + 1).unwrap();
    assert_eq!(part.len(), 1);
    assert!(part[0].file_offset <= 1 << 20 && part[0].file_offset + part[0].length > 1 << 20);
    assert!(matches!(disk_extents(&file, 5..5), Err(Error::ZeroLength { .. })));
    assert!(disk_extents(&file, 1 << 40..1 << 41).unwrap().is_empty());
}

#[test]
fn more_extents_than_one_call_returns() {
    let dir = TempDir::new();
    let path = dir.path("holes");
    let mut file = File::create_new(&path).unwrap();
    for block in 0..300_u64 {
        file.seek(SeekFrom::Start(block * 65536)).unwrap();
        file.write_all(&[1; 4096]).unwrap();
    }
    let file = File::open(&path).unwrap();
    match disk_extents(&file, 0..300 * 65536) {
        Ok(extents) => {
            let starts: Vec<u64> = extents.iter().map(|extent| extent.file_offset).collect();
            let want: Vec<u64> = (0..300).map(|block| block * 65536).collect();
            assert_eq!(starts, want);
        }
        Err(Error::ExtentsUnsupported { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn file_systems_without_extents_say_so() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        println!("no tmpfs here");
        return;
    }
    let path = shm.join(format!("lowtide-extents-{}", std::process::id()));
    std::fs::write(&path, b"bytes").unwrap();
    let result = disk_extents(&File::open(&path).unwrap(), 0..5);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(result, Err(Error::ExtentsUnsupported { .. })), "{result:?}");
}
