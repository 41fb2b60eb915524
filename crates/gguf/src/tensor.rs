//! Entries of the tensor table.

use std::ops::Range;

use crate::cursor::{Cursor, Field};
use crate::error::{Error, keep};
use crate::ggml_type::GgmlType;
use crate::limits;

/// One tensor: name, dimensions, type, and where its data lies in the file. All sizes were checked when the header was parsed.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct TensorInfo<'a> {
    name: &'a str,
    dims: [u64; limits::DIMS_MAX as usize],
    dim_count: u32,
    ty: GgmlType,
    entry_offset: u64,
    offset: u64,
    /// Absent where the type has no layout.
    bytes: Option<u64>,
}

impl<'a> TensorInfo<'a> {
    /// Reads one entry. `offset` stays relative to the data section until [`TensorInfo::place`].
    pub(crate) fn read(cursor: &mut Cursor<'a>, index: u64) -> Result<TensorInfo<'a>, Error> {
        let entry_offset = cursor.offset();
        let name = read_name(cursor, index, entry_offset)?;
        let offset = cursor.offset();
        let dim_count = cursor.u32(Field::Tensor(name, "dimension count"))?;
        if dim_count > limits::DIMS_MAX {
            return Err(Error::DimensionCount { name: name.to_owned(), offset, count: dim_count });
        }
        // A tensor of no dimensions is one element, as in ggml.
        let mut dims = [1; limits::DIMS_MAX as usize];
        for (index, dim) in (0..dim_count).zip(&mut dims) {
            let offset = cursor.offset();
            *dim = cursor.u64(Field::Tensor(name, "dimension"))?;
            // Dimensions are signed in the format.
            let value = dim.cast_signed();
            if value <= 0 {
                let name = name.to_owned();
                return Err(Error::Dimension { name, index, offset, value });
            }
        }
        let ty = GgmlType(cursor.u32(Field::Tensor(name, "type"))?);
        let offset = cursor.u64(Field::Tensor(name, "data offset"))?;
        let mut tensor =
            TensorInfo { name, dims, dim_count, ty, entry_offset, offset, bytes: None };
        tensor.bytes = tensor.compute_bytes()?;
        Ok(tensor)
    }

    /// Size of the data in bytes, `None` where the type has no layout. Checks elements and bytes for overflow, rows for whole blocks.
    fn compute_bytes(&self) -> Result<Option<u64>, Error> {
        let too_large = || Error::TensorSize {
            name: self.name.to_owned(),
            dims: self.dims().to_vec(),
            ty: self.ty,
            offset: self.entry_offset,
        };
        let elements = self
            .dims
            .iter()
            .try_fold(1i64, |product, &dim| product.checked_mul(i64::try_from(dim).ok()?));
        let elements = elements.ok_or_else(too_large)?.cast_unsigned();
        let Some(layout) = self.ty.layout() else {
            return Ok(None);
        };
        if !self.dims[0].is_multiple_of(layout.len) {
            return Err(Error::RowBlock {
                name: self.name.to_owned(),
                row: self.dims[0],
                ty: self.ty,
                block: layout.len,
                offset: self.entry_offset,
            });
        }
        let bytes = (elements / layout.len).checked_mul(layout.bytes);
        let bytes = bytes.filter(|&bytes| i64::try_from(bytes).is_ok());
        bytes.map(Some).ok_or_else(too_large)
    }

    /// Makes the offset absolute and checks that the data lies on the alignment and inside the file.
    pub(crate) fn place(
        &mut self,
        data_offset: u64,
        alignment: u32,
        file_bytes: u64,
    ) -> Result<(), Error> {
        if !self.offset.is_multiple_of(alignment.into()) {
            return Err(Error::Misaligned {
                name: self.name.to_owned(),
                offset: self.entry_offset,
                data_offset: self.offset,
                alignment,
            });
        }
        let start = self.offset.checked_add(data_offset);
        let end = start.and_then(|start| start.checked_add(self.bytes.unwrap_or(0)));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => {
                self.offset = start;
                Ok(())
            }
            _ => {
                let name = self.name.to_owned();
                Err(Error::PastEnd { name, offset: self.entry_offset, end, file_bytes })
            }
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Dimensions in ggml's order: the first is the row, the one that varies fastest. Up to four; none for a single value.
    #[must_use]
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.dim_count as usize]
    }

    /// Dimension `index`, 1 beyond the last.
    #[must_use]
    pub fn dim(&self, index: usize) -> u64 {
        self.dims.get(index).copied().unwrap_or(1)
    }

    /// Elements of one row (dimension 0).
    #[must_use]
    pub fn row_len(&self) -> u64 {
        self.dims[0]
    }

    /// Rows: the product of all dimensions but the first.
    #[must_use]
    pub fn rows(&self) -> u64 {
        // The product of all four was checked when the entry was read.
        self.dims[1..].iter().product()
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Element type; may be one that nothing is known about.
    #[must_use]
    pub fn ggml_type(&self) -> GgmlType {
        self.ty
    }

    /// Where the data starts, in bytes from the start of the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the table entry starts, in bytes from the start of the file.
    #[must_use]
    pub fn entry_offset(&self) -> u64 {
        self.entry_offset
    }

    /// Size of the data in bytes.
    ///
    /// # Errors
    /// [`Error::TensorType`] if the type has no known layout.
    pub fn byte_len(&self) -> Result<u64, Error> {
        self.bytes.ok_or_else(|| Error::TensorType {
            name: self.name.to_owned(),
            ty: self.ty,
            offset: self.entry_offset,
        })
    }

    /// The data's bytes within the file; the end is at most the file's length.
    ///
    /// # Errors
    /// [`Error::TensorType`] if the type has no known layout.
    pub fn range(&self) -> Result<Range<u64>, Error> {
        Ok(self.offset..self.offset + self.byte_len()?)
    }

    /// End of the data, or of the first byte where the size is unknown: enough to tell tensors apart.
    pub(crate) fn known_end(&self) -> u64 {
        self.offset.saturating_add(self.bytes.unwrap_or(1))
    }
}

fn read_name<'a>(cursor: &mut Cursor<'a>, index: u64, offset: u64) -> Result<&'a str, Error> {
    let bytes = cursor.string(limits::TENSOR_NAME_BYTES_MAX, Field::TensorName(index))?;
    let wrong = |why| Error::TensorName { index, offset, name: keep(bytes), why };
    let name = str::from_utf8(bytes).map_err(|_| wrong("is not valid UTF-8"))?;
    if name.is_empty() {
        return Err(wrong("has no name"));
    }
    if name.contains('\0') {
        return Err(wrong("holds a NUL, at which other readers would cut it"));
    }
    if name.contains(char::is_control) {
        return Err(wrong("holds a control character"));
    }
    Ok(name)
}
