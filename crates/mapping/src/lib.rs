//! lowtide's only system calls about memory and files.
//!
//! | What for | Where |
//! |---|---|
//! | opening a model, and knowing it again | [`open_model_file`], [`FileIdentity`] |
//! | `mmap`, typed | [`MapRequest`], [`Mapping`], [`Protection`], [`Sharing`], [`Address`] |
//! | bringing pages in, with errors | [`Mapping::populate`], [`Mapping::will_need`], [`Mapping::lock`] |
//! | letting pages go | [`Mapping::evict`], [`Mapping::unmap_pages`], [`Mapping::page_out`], [`evict_file`] |
//! | what is in memory | [`Mapping::resident_pages`], [`Mapping::mapped_pages`], [`cached_pages`] |
//! | reads past the page cache | [`DirectFile`], [`Arena`], [`ReadQueue`] |
//! | a touch that fails | [`install_sigbus_guard`], [`Mapping::is_poisoned`] |
//! | what we may use | [`MemoryLimits`], [`CpuLimits`] |
//! | what we do use | [`ProcessMemory`], [`ProcessActivity`] |
//! | what another process has of a file | [`Process`], [`FileMapping`] |
//! | how disk and kernel are set up | [`file_system`], [`block_device`], [`HugePages`], [`IoUringSetting`] |
//! | the lecture's sum | [`PageTables`], [`measure_page_tables`] |
//! | where the bytes lie on the disk | [`disk_extents`] |
//! | whether results can be printed | [`stdout_was_closed`] |
//!
//! The crate knows bytes, pages and files; it does not know what a model is. Linux only: the calls it
//! wraps (`MADV_POPULATE_READ`, `mincore`, io_uring, FIEMAP, control groups) have no equal elsewhere.
//!
//! Unsafe code lives here so that it need not live above: every public function is safe to call. The one thing
//! no interface can make safe, a file that others change while it is mapped, is written up in [`Mapping`]'s
//! module and answered by errors (see [`Error::is_model_fault`]).

#![allow(unsafe_code, reason = "this crate makes the system calls about memory and files")]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("lowtide-mapping needs Linux on a 64-bit processor");

mod advise;
pub mod arena;
mod cgroup;
mod claims;
mod cpu_limits;
mod direct;
mod disk_extents;
mod disk_setup;
mod error;
pub mod evict;
pub mod heap;
mod identity;
mod kernel_settings;
mod lock;
pub mod mapping;
mod memory_limits;
mod open;
mod page;
mod page_table_measure;
pub mod page_tables;
pub mod populate;
mod process;
mod process_files;
mod program;
pub mod read_queue;
pub mod request;
pub mod resident;
pub mod sigbus;
mod standard_output;
mod sys;
mod system_root;
mod thread;

pub use advise::Advice;
pub use arena::{Arena, Filler, Slot};
pub use cgroup::CgroupVersion;
pub use claims::{Claim, PlanTurn, claimed_bytes};
pub use cpu_limits::CpuLimits;
pub use direct::{DirectFile, ReadMode, Refusal};
pub use disk_extents::{DiskExtent, disk_extents};
pub use disk_setup::{BlockDevice, FileSystem, block_device, file_system};
pub use error::{Error, LockLimit, Place};
pub use evict::evict_file;
pub use identity::{Change, FileIdentity};
pub use kernel_settings::{HugePages, IoUringSetting};
pub use lock::lock_limit;
pub use mapping::Mapping;
pub use memory_limits::{HostMemory, MemoryGroup, MemoryLimits};
pub use open::{ModelFile, open_model_file};
pub use page::{AlignedSpan, HUGE_PAGE_BYTES, align_down, align_up, page_size};
pub use page_table_measure::{MeasuredPageTables, measure_page_tables};
pub use page_tables::{LEVELS, PageSize, PageTables, TABLE_BYTES, TABLE_ENTRIES, table_span};
pub use populate::PopulateMethod;
pub use process::{ProcessActivity, ProcessMemory, clear_referenced, reset_peak_rss};
pub use process_files::{FileMapping, Process};
pub use program::release_program_read_ahead;
pub use read_queue::{
    Backend, Completion, Priority, QueueOptions, QueueStats, ReadQueue, ReadRequest, Rejected,
    SHUTDOWN_TIMEOUT,
};
pub use request::{Address, MapRequest, Protection, Sharing};
pub use resident::{PageMap, cached_pages, tells_resident_pages};
pub use sigbus::{COVERED_BYTES, WATCHED_MAX, install_sigbus_guard};
pub use standard_output::stdout_was_closed;
pub use system_root::SystemRoot;
pub use thread::run_in_the_background;
