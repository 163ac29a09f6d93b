//! Owns the loading of weights: each is fetched with the shape it must have, and lies where it multiplies fastest.
//! After loading, shapes are facts.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Error, Experts, Placement};
use crate::dtype::DType;
use crate::ggml::{self, Content, StoreBuilder, Stored, Tensor};
use crate::gguf::{File, TensorInfo};
use crate::kernels::Weight;

/// A matrix with its optional bias.
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Stored>,
}

/// Matrices that are multiplied by the same vector, stored as few as their types allow: matrices of one type lie in one
/// tensor, one below the other, and are read in one go.
pub(crate) struct Stack {
    /// Each with its number of output rows.
    pub(crate) parts: Vec<(Linear, usize)>,
}

/// Collects the weights of a model file.
pub(crate) struct Loader<'p> {
    file: Arc<File>,
    placement: &'p Placement,
    /// The device of what is loaded, by its place in the placement.
    device: usize,
    /// Hears how many bytes went to devices other than the CPU so far.
    progress: &'p mut dyn FnMut(usize),
    n_sent: usize,
    /// Vectors, by device and name, with which of their shapes they have: layers share some, and so do the halves of a layer.
    shared: HashMap<(usize, String), (Stored, usize)>,
    builder: StoreBuilder,
    weights_bytes: usize,
}

/// The rows that make logits: a matrix of their own, or the token embeddings once more (tied).
pub(crate) fn head_tensor(file: &File) -> Option<&TensorInfo> {
    file.tensor("output.weight").or_else(|| file.tensor("token_embd.weight"))
}

impl<'p> Loader<'p> {
    pub(crate) fn new(file: Arc<File>, placement: &'p Placement, progress: &'p mut dyn FnMut(usize)) -> Loader<'p> {
        // Each device may have its copy of the vectors that layers share, of which there are two at most.
        let builder = StoreBuilder::new(file.tensors().len() + 1 + 2 * placement.devices().len());
        let shared = HashMap::new();
        Loader { file, placement, device: Placement::CPU, progress, n_sent: 0, shared, builder, weights_bytes: 0 }
    }

    /// What is loaded from now on goes to the device of a layer.
    pub(crate) fn at_layer(&mut self, il: usize) {
        self.go_to(self.placement.of_layer(il));
    }

    /// What is loaded from now on goes to the device of the output head.
    pub(crate) fn at_output(&mut self) {
        self.go_to(self.placement.of_output());
    }

    fn go_to(&mut self, device: usize) {
        self.device = device;
        self.builder.place_on(&self.placement.devices()[device]);
    }

    /// What divides the rotary frequencies: several layers read it and a model may lack it; once on each device.
    pub(crate) fn shared_divisors(&mut self, name: &str, n: usize) -> Result<Option<Stored>, Error> {
        let is_known = self.shared.contains_key(&(self.device, name.to_owned()));
        let loaded = self.optional_vector(name, n)?;
        if let Some(info) = self.file.tensor(name).filter(|_| !is_known) {
            let values = to_f32(&self.file, info)?;
            // Angles of nearly endless size have no cosine.
            if let Some(x) = values.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).find(|&x| x < 1e-3) {
                return Err(Error::unsupported(&self.file, name, "divisors above 0.001".to_owned(), x.to_string()));
            }
        }
        Ok(loaded)
    }

    /// A vector of f32, such as a norm's weight.
    pub(crate) fn vector(&mut self, name: &str, n: usize) -> Result<Stored, Error> {
        self.optional_vector(name, n)?.ok_or_else(|| Error::missing(&self.file, name))
    }

    /// A vector of f32 that a model may lack.
    pub(crate) fn optional_vector(&mut self, name: &str, n: usize) -> Result<Option<Stored>, Error> {
        Ok(self.optional_of_shapes(name, &[&[n]])?.map(|(vector, _)| vector))
    }

    /// Numbers in f32 that a model may lack, and which of the shapes that they may have they have.
    pub(crate) fn optional_of_shapes(
        &mut self,
        name: &str,
        shapes: &[&[usize]],
    ) -> Result<Option<(Stored, usize)>, Error> {
        let key = (self.device, name.to_owned());
        if let Some(known) = self.shared.get(&key) {
            return Ok(Some(known.clone()));
        }
        let file = self.file.clone();
        let Some(info) = file.tensor(name) else { return Ok(None) };
        let which = shapes.iter().position(|shape| has_shape(info, shape));
        let which = which.ok_or_else(|| Error::shape(&file, info, shapes[0]))?;
        let values = to_f32(&file, info)?;
        let stored = self.builder.add_plain(name, DType::F32, shapes[which], &values)?;
        self.count_sent(values.len());
        self.weights_bytes += info.bytes;
        self.shared.insert(key, (stored.clone(), which));
        Ok(Some((stored, which)))
    }

    /// Whether the file has such a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// A matrix \[n_in, n_out\] of each expert, in one tensor.
    pub(crate) fn experts(&mut self, name: &str, [n_in, n_out]: [usize; 2], of: Experts) -> Result<Stored, Error> {
        let file = self.file.clone();
        let info = file.tensor(name).ok_or_else(|| Error::missing(&file, name))?;
        let shape = [n_in, n_out, of.n];
        expect_shape(&file, info, &shape)?;
        expect_type(&file, info, ggml::can_multiply, "can be multiplied by")?;
        // A token reads those that it takes.
        self.weights_bytes += info.bytes / of.n * of.n_used;
        if self.builder.is_host() {
            return match self.builder.add_mapped(name, info.dtype, &shape, &file, |f| f.data(info)) {
                Some(mapped) => Ok(mapped),
                None => Ok(self.builder.add_plain(name, info.dtype, &shape, file.data(info))?),
            };
        }
        self.send_as(name, &[info], &shape)
    }

    /// A matrix whose rows are looked up: it stays in the file's map where it can.
    pub(crate) fn table(&mut self, name: &str, shape: [usize; 2]) -> Result<Stored, Error> {
        let file = self.file.clone();
        let info = file.tensor(name).ok_or_else(|| Error::missing(&file, name))?;
        expect_shape(&file, info, &shape)?;
        expect_type(&file, info, ggml::can_dequantize, "rows can be looked up")?;
        // Rows are looked up one at a time: a table does not count as read per token.
        match self.builder.add_mapped(name, info.dtype, &shape, &file, |f| f.data(info)) {
            Some(table) => Ok(table),
            None => Ok(self.builder.add_plain(name, info.dtype, &shape, file.data(info))?),
        }
    }

    /// The output head: a matrix of its own, or the token embeddings once more (tied).
    pub(crate) fn head(&mut self, shape: [usize; 2], token_embd: &Stored) -> Result<Weight, Error> {
        let file = self.file.clone();
        let info = head_tensor(&file).ok_or_else(|| Error::missing(&file, "token_embd.weight"))?;
        expect_matrix(&file, info, shape)?;
        if self.builder.is_host() && info.name == "token_embd.weight" && !Weight::repacks(info.dtype, shape) {
            self.weights_bytes += info.bytes;
            return Ok(Weight::plain(token_embd.clone()));
        }
        self.matrix(&info.name, shape)
    }

    /// Matrices [n_in, n] with their optional biases that are multiplied by the same vector.
    pub(crate) fn stack(&mut self, prefix: &str, names: &[(&str, usize)], n_in: usize) -> Result<Stack, Error> {
        let file = self.file.clone();
        let mut infos = Vec::new();
        for &(name, n) in names {
            let full = format!("{prefix}.{name}.weight");
            let info = file.tensor(&full).ok_or_else(|| Error::missing(&file, &full))?;
            expect_matrix(&file, info, [n_in, n])?;
            infos.push((name, n, info));
        }
        let mut parts = Vec::new();
        for group in infos.chunk_by(|(_, _, a), (_, _, b)| a.dtype == b.dtype) {
            parts.push(self.fused(prefix, group, n_in)?);
        }
        Ok(Stack { parts })
    }

    /// One matrix with its optional bias.
    pub(crate) fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Linear, Error> {
        let weight = self.matrix(&format!("{name}.weight"), shape)?;
        let bias = self.optional_vector(&format!("{name}.bias"), shape[1])?;
        Ok(Linear { weight, bias })
    }

    /// Bytes of what was loaded that one token reads.
    pub(crate) fn weights_bytes(&self) -> usize {
        self.weights_bytes
    }

    fn fused(
        &mut self,
        prefix: &str,
        group: &[(&str, usize, &TensorInfo)],
        n_in: usize,
    ) -> Result<(Linear, usize), Error> {
        if let [(name, n, _)] = group {
            return Ok((self.linear(&format!("{prefix}.{name}"), [n_in, *n])?, *n));
        }
        let file = self.file.clone();
        let n: usize = group.iter().map(|(_, n, _)| n).sum();
        let name = group.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join("+");
        let data: Vec<&[u8]> = group.iter().map(|(.., info)| file.data(info)).collect();
        let label = format!("{prefix}.{name}");
        let weight = if self.builder.is_host() {
            Weight::add_to(&mut self.builder, &label, group[0].2.dtype, [n_in, n], &data)?
        } else {
            self.send(&label, &group.iter().map(|(.., info)| *info).collect::<Vec<_>>(), [n_in, n])?
        };
        self.weights_bytes += data.iter().map(|d| d.len()).sum::<usize>();
        group.iter().for_each(|(.., info)| file.release(info)); // copied
        let bias = self.fused_bias(prefix, &name, group)?;
        Ok((Linear { weight, bias }, n))
    }

    /// The biases of a fused group, zero where one is missing; none if all are.
    fn fused_bias(
        &mut self,
        prefix: &str,
        name: &str,
        group: &[(&str, usize, &TensorInfo)],
    ) -> Result<Option<Stored>, Error> {
        let file = self.file.clone();
        let (mut values, mut any) = (Vec::new(), false);
        for (name, n, _) in group {
            match file.tensor(&format!("{prefix}.{name}.bias")) {
                Some(info) => {
                    expect_shape(&file, info, &[*n])?;
                    values.extend(to_f32(&file, info)?);
                    any = true;
                }
                None => values.resize(values.len() + n * size_of::<f32>(), 0),
            }
        }
        if !any {
            return Ok(None);
        }
        let shape = [values.len() / size_of::<f32>()];
        let bias = self.builder.add_plain(&format!("{prefix}.{name}.bias"), DType::F32, &shape, &values)?;
        self.weights_bytes += values.len();
        Ok(Some(bias))
    }

    /// One matrix.
    pub(crate) fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, Error> {
        let file = self.file.clone();
        let info = file.tensor(name).ok_or_else(|| Error::missing(&file, name))?;
        expect_matrix(&file, info, shape)?;
        let repacks = Weight::repacks(info.dtype, shape);
        self.weights_bytes += info.bytes;
        if !self.builder.is_host() {
            return self.send(name, &[info], shape);
        }
        if !repacks && let Some(mapped) = self.builder.add_mapped(name, info.dtype, &shape, &file, |f| f.data(info)) {
            return Ok(Weight::plain(mapped));
        }
        let weight = Weight::add_to(&mut self.builder, name, info.dtype, shape, &[file.data(info)])?;
        file.release(info); // copied
        Ok(weight)
    }

    /// Matrices of one type, one below the other, to a device other than the CPU.
    fn send(&mut self, label: &str, infos: &[&TensorInfo], shape: [usize; 2]) -> Result<Weight, Error> {
        Ok(Weight::plain(self.send_as(label, infos, &shape)?))
    }

    fn send_as(&mut self, label: &str, infos: &[&TensorInfo], shape: &[usize]) -> Result<Stored, Error> {
        let (file, names) = (self.file.clone(), infos.iter().map(|info| info.name.clone()).collect::<Vec<_>>());
        let content: Content = Arc::new(move |sink| {
            names.iter().filter_map(|name| file.tensor(name)).for_each(|info| {
                sink(file.data(info));
                file.release(info); // copied
            });
        });
        let stored = self.builder.add_content(label, infos[0].dtype, shape, content)?;
        self.count_sent(infos.iter().map(|info| info.bytes).sum());
        Ok(stored)
    }

    fn count_sent(&mut self, bytes: usize) {
        if !self.builder.is_host() {
            self.n_sent += bytes;
            (self.progress)(self.n_sent);
        }
    }
}

impl Linear {
    pub(crate) fn bias(&self) -> Option<Tensor<'_>> {
        self.bias.as_ref().map(Stored::t)
    }
}

fn has_shape(info: &TensorInfo, shape: &[usize]) -> bool {
    let found = &info.shape[..];
    found.starts_with(shape) && found[shape.len()..].iter().all(|&n| n == 1)
}

fn expect_shape(file: &File, info: &TensorInfo, shape: &[usize]) -> Result<(), Error> {
    if has_shape(info, shape) { Ok(()) } else { Err(Error::shape(file, info, shape)) }
}

fn expect_matrix(file: &File, info: &TensorInfo, shape: [usize; 2]) -> Result<(), Error> {
    expect_shape(file, info, &shape)?;
    expect_type(file, info, ggml::can_multiply, "can be multiplied by")
}

/// Refuses a type that an operation has no code for: ggml would end the process, or read what is not there.
fn expect_type(file: &File, info: &TensorInfo, suits: fn(DType) -> bool, what: &str) -> Result<(), Error> {
    if suits(info.dtype) {
        return Ok(());
    }
    let known: Vec<&str> = DType::ALL.iter().filter(|&&dtype| suits(dtype)).map(|dtype| dtype.name()).collect();
    let expected = format!("a type that {what} ({})", known.join(", "));
    Err(Error::unsupported(file, &info.name, expected, info.dtype.name().to_owned()))
}

/// The first row of a tensor with NaN or infinity in it.
pub(crate) fn broken_row(file: &File, info: &TensorInfo) -> Option<usize> {
    let row_bytes = info.dtype.row_bytes(info.shape[0]).filter(|&n| n > 0 && ggml::can_dequantize(info.dtype))?;
    let is_broken = |row: &[u8]| ggml::dequantize(info.dtype, row).iter().any(|x| !x.is_finite());
    file.data(info).chunks_exact(row_bytes).position(is_broken)
}

/// The bytes of a vector as f32; f16 and bf16 are widened, which is exact. Vectors are small, so that each number is looked at.
fn to_f32(file: &File, info: &TensorInfo) -> Result<Vec<u8>, Error> {
    let data = file.data(info);
    let pairs = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
    let values: Vec<f32> = match info.dtype {
        DType::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        DType::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        DType::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        other => {
            return Err(Error::unsupported(file, &info.name, "f32, f16 or bf16".to_owned(), other.name().to_owned()));
        }
    };
    if let Some(i) = values.iter().position(|x| !x.is_finite()) {
        let found = format!("{} at {i}", values[i]);
        return Err(Error::unsupported(file, &info.name, "finite numbers".to_owned(), found));
    }
    Ok(values.iter().flat_map(|x| x.to_le_bytes()).collect())
}
