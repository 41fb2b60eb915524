//! Finds a tensor by its role and checks its shape and type.

use std::collections::HashMap;

use lowtide_gguf::TensorInfo;
use lowtide_gguf::split::{ShardTensor, TensorTable};
use lowtide_kernels::format::Format;
use lowtide_model::{Error as ModelError, ModelConfig, Role, TensorSpec};
use lowtide_residency::SourceId;

use super::{Matrix, Slices, Vector};

pub(super) struct Binder<'b, 'a> {
    pub config: &'b ModelConfig,
    table: &'b TensorTable<'a>,
    specs: HashMap<(Role, Option<u32>), &'b TensorSpec>,
    /// Floats of the vectors so far.
    pub floats: usize,
    /// Weights so far.
    pub parameters: u64,
}

impl<'b, 'a> Binder<'b, 'a> {
    pub(super) fn new(
        config: &'b ModelConfig,
        table: &'b TensorTable<'a>,
        specs: &'b [TensorSpec],
    ) -> Self {
        let specs = specs.iter().map(|s| ((s.role, s.layer), s)).collect();
        Self { config, table, specs, floats: 0, parameters: 0 }
    }

    pub(super) fn present(&self, role: Role, layer: Option<u32>) -> bool {
        self.specs.contains_key(&(role, layer)) && self.table.find(&role.name(layer)).is_some()
    }

    /// The tensor's entry, with its shape and type checked.
    fn locate(
        &mut self,
        role: Role,
        layer: Option<u32>,
    ) -> Result<Option<(&'b ShardTensor<'a>, Format)>, ModelError> {
        let Some(spec) = self.specs.get(&(role, layer)) else { return Ok(None) };
        let name = spec.name();
        let wanted = [spec.columns, spec.rows, spec.planes, 1];
        let Some(located) = self.table.find(&name) else {
            if spec.required {
                let why = format!("it should be {}", shape(wanted));
                return Err(tensor_error(&name, "is missing", why));
            }
            return Ok(None);
        };
        let info = &located.tensor;
        if std::array::from_fn(|i| info.dim(i)) != wanted {
            let problem = format!("has shape {:?}", info.dims());
            return Err(tensor_error(&name, &problem, format!("it should be {}", shape(wanted))));
        }
        let id = info.ggml_type();
        let format = Format::from_ggml_type(id.0).ok_or_else(|| {
            let kind = id.name().map_or_else(|| format!("type {}", id.0), str::to_owned);
            tensor_error(&name, &format!("is stored as {kind}"), "no kernel reads that type".into())
        })?;
        self.parameters += info.elements();
        Ok(Some((located, format)))
    }

    /// A vector, or several of one length behind each other.
    pub(super) fn optional(
        &mut self,
        role: Role,
        layer: Option<u32>,
    ) -> Result<Option<Vector>, ModelError> {
        let Some((located, format)) = self.locate(role, layer)? else { return Ok(None) };
        let (len, bytes) = (length(located.tensor.elements()), byte_length(&located.tensor)?);
        let vector = Vector {
            format,
            source: SourceId(located.shard),
            offset: located.tensor.offset(),
            bytes: length(bytes),
            start: self.floats,
            len,
        };
        self.floats += len;
        Ok(Some(vector))
    }

    pub(super) fn vector(&mut self, role: Role, layer: Option<u32>) -> Result<Vector, ModelError> {
        self.optional(role, layer)?.ok_or_else(|| missing(role, layer))
    }

    pub(super) fn matrix(&mut self, role: Role, layer: Option<u32>) -> Result<Matrix, ModelError> {
        let (located, format) = self.locate(role, layer)?.ok_or_else(|| missing(role, layer))?;
        let bytes = byte_length(&located.tensor)?;
        let (rows, columns) = (length(located.tensor.rows()), length(located.tensor.row_len()));
        let row_bytes =
            format.row_bytes(columns).filter(|b| b.checked_mul(rows) == Some(length(bytes)));
        let row_bytes = row_bytes.ok_or_else(|| {
            let why = format!("{rows} rows of {columns} weights do not make {bytes} bytes");
            tensor_error(&role.name(layer), "has an odd size", why)
        })?;
        let (source, offset) = (SourceId(located.shard), located.tensor.offset());
        let (unit_rows, tiles) = (1, 0..0);
        Ok(Matrix { format, rows, columns, row_bytes, source, offset, unit_rows, tiles })
    }

    /// One matrix for each head, behind each other, as if they were one.
    pub(super) fn of_heads(
        &mut self,
        role: Role,
        layer: Option<u32>,
    ) -> Result<Matrix, ModelError> {
        let unit_rows = self.specs.get(&(role, layer)).map_or(1, |spec| length(spec.rows));
        Ok(Matrix { unit_rows, ..self.matrix(role, layer)? })
    }

    /// Matrices behind each other, as many as the tensor's third dimension says.
    pub(super) fn slices(&mut self, role: Role, layer: Option<u32>) -> Result<Slices, ModelError> {
        let planes = self.specs.get(&(role, layer)).map_or(1, |spec| spec.planes);
        let whole = self.matrix(role, layer)?;
        let rows = whole.rows / length(planes);
        let bytes = (rows * whole.row_bytes) as u64;
        let Matrix { format, columns, source, offset, .. } = whole;
        Ok(Slices { format, rows, columns, source, offset, bytes, stride: bytes })
    }
}

fn shape(dims: [u64; 4]) -> String {
    let used = dims.iter().rposition(|d| *d != 1).map_or(1, |last| last + 1);
    format!("{:?}", &dims[..used])
}

fn byte_length(info: &TensorInfo<'_>) -> Result<u64, ModelError> {
    info.byte_len().map_err(|e| {
        let text = e.to_string();
        let line = text.lines().next().unwrap_or_default().to_owned();
        tensor_error(info.name(), "has an odd size", line)
    })
}

/// File offsets and lengths fit `usize` on the 64-bit machines lowtide runs on; the parser has
/// checked them against the file's length.
pub(super) fn length(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn missing(role: Role, layer: Option<u32>) -> ModelError {
    tensor_error(&role.name(layer), "is missing", "the family needs it".to_owned())
}

pub(super) fn tensor_error(name: &str, problem: &str, why: String) -> ModelError {
    ModelError::Tensor { name: name.to_owned(), problem: problem.to_owned(), why }
}
