//! Opening a model file: a regular file on a file system, or an error that says what it is instead.

use std::ffi::{CStr, CString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::{Error, FileIdentity, sys};

/// A regular, non-empty file that is open for reading, with who it was when it was opened.
#[derive(Debug)]
pub struct ModelFile {
    file: File,
    path: PathBuf,
    identity: FileIdentity,
}

impl ModelFile {
    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device, inode, length and time of change when it was opened.
    #[must_use]
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Length in bytes when it was opened; at least 1.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Whether the file is still what it was.
    ///
    /// # Errors
    /// `Changed`, or `File` where `fstat` fails.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        self.identity.check(&self.file)
    }
}

/// Opens a model file for reading. Never blocks on a FIFO, never opens a device.
///
/// # Errors
/// `NotRegularFile` (directory, FIFO, socket, device, file of `/proc` or `/sys`), `EmptyFile`, `Open`
/// (missing, no permission, symbolic links in a circle, NUL in the path, ...), `File`.
pub fn open_model_file(path: impl AsRef<Path>) -> Result<ModelFile, Error> {
    let path = path.as_ref();
    let c_path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| open_error(path, io::Error::from_raw_os_error(libc::EINVAL)))?;
    // Looked at before it is opened, because opening a device can have effects of its own.
    let meta = std::fs::metadata(path).map_err(|source| open_error(path, source))?;
    check_kind(path, &meta)?;
    let file = open_nonblocking(&c_path).map_err(|source| open_error(path, source))?;
    // And again after, because the path may lead elsewhere by now.
    let meta = file.metadata().map_err(|source| open_error(path, source))?;
    check_kind(path, &meta)?;
    if let Some(found) = pseudo_file_system(&file)? {
        return Err(Error::NotRegularFile { path: path.into(), found });
    }
    let identity = FileIdentity::of(&file)?;
    if identity.size == 0 {
        return Err(Error::EmptyFile { path: path.into() });
    }
    make_blocking(&file)?;
    Ok(ModelFile { file, path: path.into(), identity })
}

fn check_kind(path: &Path, meta: &Metadata) -> Result<(), Error> {
    let kind = meta.file_type();
    let found = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO (named pipe)"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "not a file of a known kind"
    };
    Err(Error::NotRegularFile { path: path.into(), found })
}

/// Opens with `O_NONBLOCK`: a FIFO put in the file's place meanwhile must not hang us.
fn open_nonblocking(path: &CStr) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    for _ in 0..sys::AGAIN_MAX {
        // SAFETY: `path` is a C string that outlives the call.
        match sys::check(unsafe { libc::open(path.as_ptr(), flags) }) {
            // SAFETY: open has just returned this descriptor and nobody else has it.
            Ok(fd) => return Ok(unsafe { File::from_raw_fd(fd) }),
            Err(error) if sys::is_transient(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINTR))
}

/// Takes `O_NONBLOCK` off again: io_uring answers EAGAIN on descriptors that have it.
fn make_blocking(file: &File) -> Result<(), Error> {
    // SAFETY: F_GETFL takes no pointer.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(Error::last_file("fcntl(F_GETFL)", file.as_fd()));
    }
    // SAFETY: F_SETFL takes an integer.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0 {
        return Err(Error::last_file("fcntl(F_SETFL)", file.as_fd()));
    }
    Ok(())
}

/// Magic numbers of `linux/magic.h` whose files are regular by type but made up by the kernel.
const PSEUDO_FILE_SYSTEMS: [(i64, &str); 7] = [
    (0x0000_9fa0, "a file of /proc"),
    (0x6265_6572, "a file of /sys"),
    (0x6462_6720, "a file of debugfs"),
    (0x7472_6163, "a file of tracefs"),
    (0x0027_e0eb, "a file of a control group"),
    (0x6367_7270, "a file of a control group"),
    (0xcafe_4a11, "a file of the BPF file system"),
];

fn pseudo_file_system(file: &File) -> Result<Option<&'static str>, Error> {
    let magic = file_system(file)?;
    Ok(PSEUDO_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name))
}

/// Magic numbers of file systems behind a server, which may take any time: FUSE, NFS, CIFS, SMB 2, 9P, Ceph, AFS.
const SERVED_FILE_SYSTEMS: [i64; 7] =
    [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400, 0x5346_414f];

/// Whether a file's bytes come from a server; false where the system does not say.
pub(crate) fn is_served(file: &File) -> bool {
    file_system(file).is_ok_and(|magic| SERVED_FILE_SYSTEMS.contains(&magic))
}

/// The magic number of the file's file system.
fn file_system(file: &File) -> Result<i64, Error> {
    // SAFETY: statfs is plain integers, for which zero is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `found` is a statfs to write to.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) } != 0 {
        return Err(Error::last_file("fstatfs", file.as_fd()));
    }
    // The type of f_type differs between platforms; the magic numbers are 32 bits wide on all.
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "f_type is i64, i32 or u32 by platform"
    )]
    let magic = (found.f_type as i64) & 0xffff_ffff;
    Ok(magic)
}

fn open_error(path: &Path, source: io::Error) -> Error {
    let why = match source.raw_os_error() {
        Some(libc::ENOENT) => "there is no such file",
        Some(libc::EACCES | libc::EPERM) => "no permission to read it",
        Some(libc::ELOOP) => "its symbolic links lead in a circle",
        Some(libc::ENOTDIR) => "a part of the path is not a directory",
        Some(libc::ENAMETOOLONG) => "the path is too long",
        Some(libc::EISDIR) => "it is a directory",
        Some(libc::EMFILE | libc::ENFILE) => "too many files are open",
        Some(libc::EIO) => "the disk failed",
        Some(libc::ESTALE) => "the file server no longer knows it",
        Some(libc::EINVAL) | None => "this is not a possible path (it holds a NUL byte?)",
        Some(_) => "the system refused",
    };
    Error::Open { path: path.into(), why, source }
}
