//! How much one `MADV_WILLNEED` may ask for.
//!
//! The kernel cuts such a request, silently, to the larger of the disk's readahead and its longest
//! single request (`force_page_cache_ra` in mm/readahead.c), whatever was asked for. With Linux's
//! usual 128 KiB that would start a tenth of a tile and leave the rest to page faults, one after the
//! other. So requests are cut here, to what the kernel will do in full.

use std::path::PathBuf;

/// Where nothing is known: the kernel's default readahead, and what every disk does at a time.
const DEFAULT_BYTES: usize = 128 << 10;

/// Beyond this a longer request gains nothing.
const BYTES_MAX: usize = 8 << 20;

/// The longest `MADV_WILLNEED` that is done in full on a device (`st_dev`).
pub(crate) fn will_need_bytes(device: u64) -> usize {
    // The encoding of dev_t in Linux's <sys/sysmacros.h>.
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff);
    let disk = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has its queue one level up. The entry is a link, so ".." has to follow it.
    let queues = [disk.join("queue"), disk.join("../queue")];
    let number = |name: &str| {
        let texts = queues.iter().filter_map(|q| std::fs::read_to_string(q.join(name)).ok());
        texts.filter_map(|text| text.trim().parse::<usize>().ok()).next()
    };
    let kib = number("read_ahead_kb").max(number("max_sectors_kb")).unwrap_or(0);
    let bytes = kib.saturating_mul(1024);
    if bytes == 0 { DEFAULT_BYTES } else { bytes.clamp(4096, BYTES_MAX) / 4096 * 4096 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_devices_get_the_default_and_real_ones_whole_pages() {
        assert_eq!(will_need_bytes(u64::MAX), DEFAULT_BYTES);
        use std::os::unix::fs::MetadataExt;
        let here = std::fs::metadata(env!("CARGO_MANIFEST_DIR")).unwrap().dev();
        let bytes = will_need_bytes(here);
        assert!((4096..=BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(4096), "{bytes}");
    }
}
