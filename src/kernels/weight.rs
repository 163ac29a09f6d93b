//! Owns weight matrices: where one lies and how it is packed. On the CPU a matrix is packed where this processor has a
//! kernel for its type, lies in a layout of ggml's own where ggml has one, and stays as it is in the file otherwise.

use std::sync::Arc;

use super::packed::Packing;
use crate::dtype::DType;
use crate::ggml::{Error, Store, StoreBuilder, Stored, Tensor, adds_rows_up_together};

/// A matrix \[n_in, n_out\] to multiply by.
#[derive(Clone)]
pub struct Weight {
    stored: Stored,
    packing: Option<Packing>,
}

impl Weight {
    /// A matrix for the CPU, its rows in `parts` one after the other, in the fastest layout that there is for it: the
    /// tensor may have a type and shape of its own.
    ///
    /// # Errors
    /// Without memory for it.
    pub fn add_to(
        builder: &mut StoreBuilder,
        name: &str,
        dtype: DType,
        shape: [usize; 2],
        parts: &[&[u8]],
    ) -> Result<Weight, Error> {
        let Some(packing) = Packing::of(dtype, shape) else {
            return Ok(Weight::plain(builder.add_matrix(name, dtype, shape, parts)?));
        };
        // A row of the tensor is a group: ggml keeps the bytes and never looks at them.
        let packed_shape = [packing.group_bytes(), packing.n_groups()];
        let stored = builder.add_in_large_pages(name, packed_shape, |place| packing.pack(parts, place))?;
        Ok(Weight { stored, packing: Some(packing) })
    }

    /// A tensor as a matrix to multiply by, in the layout that it has.
    pub fn plain(stored: Stored) -> Weight {
        Weight { stored, packing: None }
    }

    /// Whether [`Weight::add_to`] would give such a matrix another layout than it has in a file.
    pub fn repacks(dtype: DType, shape: [usize; 2]) -> bool {
        Packing::of(dtype, shape).is_some() || StoreBuilder::repacks(dtype, shape)
    }

    /// Whether several rows multiplied by such a matrix of the CPU come out to the bit as each alone would.
    pub fn adds_rows_up_alike(dtype: DType, shape: [usize; 2]) -> bool {
        // Our kernels give each row the sums that it has alone, whatever ggml does with the type.
        Packing::of(dtype, shape).is_some() || !adds_rows_up_together(dtype)
    }

    /// The store that holds the data.
    pub fn store(&self) -> &Arc<Store> {
        self.stored.store()
    }

    /// Whether [`crate::ggml::Ops::linear`] computes everything around the multiplication in the same node.
    pub fn is_fused(&self) -> bool {
        self.packing.is_some()
    }

    /// The tensor, which has the name in the file; of matrices in one tensor, their names with `+` between.
    pub(super) fn tensor(&self) -> Tensor<'_> {
        self.stored.t()
    }

    /// How the matrix is packed, if it is.
    pub(super) fn packing(&self) -> Option<Packing> {
        self.packing
    }
}
