//! A file system of one file that fails on command: the file's bytes come from a real one, until they are
//! to be had no more.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, Request,
};

/// The one file's name.
pub const NAME: &str = "model.gguf";
const FILE: INodeNo = INodeNo(2);
/// How long the kernel may remember attributes.
const TTL: Duration = Duration::from_secs(3600);

/// What reads get.
#[derive(Default)]
enum Answer {
    #[default]
    Bytes,
    Error,
    /// Nothing yet: these wait.
    Silence(Vec<ReplyData>),
}

/// A mounted file system; gone when dropped.
pub struct FailingFs {
    answer: Arc<Mutex<Answer>>,
    at: PathBuf,
    _session: BackgroundSession,
}

/// The kernel takes a process's ring of reads apart after the process has ended, and until then the mount is busy: it is
/// taken out of the tree at once, and goes with its last user.
impl Drop for FailingFs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
    }
}

impl FailingFs {
    /// Mounts it; `None`, with a line that says so, where this machine does not let us.
    pub fn mount(file: &Path, at: &Path) -> Option<Self> {
        let answer = Arc::<Mutex<Answer>>::default();
        let file = File::open(file).unwrap();
        let size = file.metadata().unwrap().len();
        let fs = Fs { file, size, answer: Arc::clone(&answer) };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("failing".to_owned())];
        match fuser::spawn_mount(fs, at, &config) {
            Ok(session) => Some(Self { answer, at: at.to_owned(), _session: session }),
            Err(error) => {
                println!("not run: FUSE cannot be mounted here: {error}");
                None
            }
        }
    }

    /// From now on every read fails, those that wait included.
    pub fn fail(&self) {
        let before = std::mem::replace(&mut *self.answer.lock().unwrap(), Answer::Error);
        if let Answer::Silence(waiting) = before {
            waiting.into_iter().for_each(|reply| reply.error(Errno::EIO));
        }
    }

    /// From now on every read gets its bytes again.
    pub fn heal(&self) {
        *self.answer.lock().unwrap() = Answer::Bytes;
    }

    /// From now on no read is answered, until reads fail.
    pub fn hang(&self) {
        *self.answer.lock().unwrap() = Answer::Silence(Vec::new());
    }
}

struct Fs {
    file: File,
    size: u64,
    answer: Arc<Mutex<Answer>>,
}

impl Fs {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        FileAttr {
            ino,
            size: if is_file { self.size } else { 0 },
            blocks: if is_file { self.size.div_ceil(512) } else { 0 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o444 } else { 0o555 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Fs {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match &mut *self.answer.lock().unwrap() {
            Answer::Bytes => {}
            Answer::Error => return reply.error(Errno::EIO),
            Answer::Silence(waiting) => return waiting.push(reply),
        }
        let length = u64::from(size).min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}
