//! Single rows (a token's embedding), read past the page cache, many at a time.

use std::time::Duration;

use lowtide_mapping::{
    Arena, Backend, Completion, Error, Mapping, Priority, QueueOptions, ReadQueue, ReadRequest,
    Slot,
};

use crate::driver::direct_files;
use crate::error::ResidencyError;
use crate::extent::SourceId;
use crate::plan::PAGE_BYTES;
use crate::store::Source;

/// Rows read at a time: small random reads are what depth helps most.
const DEPTH: usize = 16;

/// A read queue of its own, so that a row does not wait behind the ring's large reads.
pub(crate) struct RowReader {
    queue: ReadQueue,
    slots: Vec<Slot>,
    row_bytes_max: usize,
}

impl RowReader {
    pub fn open(
        sources: &[Source],
        row_bytes: usize,
        backend: Backend,
    ) -> Result<RowReader, ResidencyError> {
        let system = |what| move |source| ResidencyError::System { what, source };
        let page = PAGE_BYTES as usize;
        // A row may begin and end in the middle of a page.
        let slot_bytes = row_bytes.div_ceil(page).saturating_add(1).saturating_mul(page);
        let arena =
            Arena::new(slot_bytes.saturating_mul(DEPTH)).map_err(system("memory for rows"))?;
        let options =
            QueueOptions { backend, depth: DEPTH, max_requests: DEPTH, ..QueueOptions::default() };
        let queue = ReadQueue::new(direct_files(sources)?, options)
            .map_err(system("the read queue for rows"))?;
        Ok(RowReader { queue, slots: arena.into_slots(slot_bytes), row_bytes_max: row_bytes })
    }

    pub fn row_bytes_max(&self) -> usize {
        self.row_bytes_max
    }

    /// All rows, or the first error after every read has come back.
    pub fn read(
        &mut self,
        source: SourceId,
        offsets: &[u64],
        row_bytes: usize,
        out: &mut [u8],
        deadline: Duration,
    ) -> Result<(), ResidencyError> {
        let mut failure = None;
        for (i, &offset) in offsets.iter().enumerate() {
            let Some(slot) = self.slots.pop() else {
                return Err(ResidencyError::Unknown { what: "a row without a buffer".into() });
            };
            let request = ReadRequest {
                token: i as u64,
                file: source.0 as usize,
                offset,
                length: row_bytes,
                slot,
                priority: Priority::Demand,
            };
            if let Err(rejected) = self.queue.submit(request) {
                self.slots.push(rejected.slot);
                failure = failure.or(Some(rejected.error));
                break;
            }
            if self.slots.is_empty() {
                self.take_one(row_bytes, out, deadline, &mut failure)?;
            }
        }
        while !self.queue.is_empty() {
            self.take_one(row_bytes, out, deadline, &mut failure)?;
        }
        failure.map_or(Ok(()), |e| Err(ResidencyError::Rows(e)))
    }

    fn take_one(
        &mut self,
        row_bytes: usize,
        out: &mut [u8],
        deadline: Duration,
        failure: &mut Option<Error>,
    ) -> Result<(), ResidencyError> {
        let completion = self.queue.wait_complete(deadline).map_err(ResidencyError::Rows)?;
        let Some(Completion { token, slot, result }) = completion else { return Ok(()) };
        match result {
            Ok(range) => {
                let start = token as usize * row_bytes;
                let to = out.get_mut(start..start + row_bytes);
                if let (Some(to), Some(from)) = (to, slot.as_slice().get(range)) {
                    to.copy_from_slice(from);
                }
            }
            Err(error) => *failure = failure.take().or(Some(error)),
        }
        self.slots.push(slot);
        Ok(())
    }
}

/// Rows out of a mapping in which everything may stay.
pub(crate) fn copy_rows(
    mapping: &Mapping,
    offsets: &[u64],
    row_bytes: usize,
    out: &mut [u8],
) -> Result<(), ResidencyError> {
    for (offset, row) in offsets.iter().zip(out.chunks_exact_mut(row_bytes)) {
        // The caller has checked the end against the file, and the mapping is as long.
        let start = usize::try_from(*offset).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(row_bytes);
        mapping.populate(range.clone()).map_err(ResidencyError::Rows)?;
        row.copy_from_slice(mapping.bytes(range).map_err(ResidencyError::Rows)?);
    }
    Ok(())
}
