//! Owns a machine for the few pickle instructions that a saved state dict needs. It calls nothing: of the names a
//! pickle may mention it knows those of torch's tensors and the ordered dict, and refuses every other one by name.

mod machine;
mod value;

use indexmap::IndexMap;

use super::element::Element;
use value::Node;

/// A tensor as the pickle describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    /// The key of the storage that holds the data.
    pub(super) storage: String,
    /// `None` for elements that are no floating-point numbers.
    pub(super) element: Option<Element>,
    /// Elements of the storage.
    pub(super) storage_len: usize,
    /// Index of the first element in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// What a pickle of a state dict says that it should not: expected and found.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) expected: String,
    pub(super) found: String,
}

/// The tensors of a state dict, by name and in its order.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<(String, Tensor)>, Fault> {
    let (values, result) = machine::run(pickle)?;
    let Node::Dict(pairs) = &values[result] else {
        return Err(fault("a dict of tensors", values.describe(result)));
    };
    let mut tensors = IndexMap::new();
    for &(key, value) in pairs {
        let (name, tensor) = values.named_tensor(key, value)?;
        if tensors.insert(name, tensor).is_some() {
            return Err(fault("each tensor once", format!("`{name}` twice")));
        }
    }
    Ok(tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect())
}

fn fault(expected: impl Into<String>, found: impl Into<String>) -> Fault {
    Fault { expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests {
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// `GLOBAL module name`.
    fn global(module: &str, name: &str) -> Vec<u8> {
        format!("c{module}\n{name}\n").into_bytes()
    }

    fn found(pickle: &[u8]) -> String {
        state_dict(pickle).unwrap_err().found
    }

    #[test]
    fn a_call_is_refused_by_name() {
        let attack = [b"\x80\x02".to_vec(), global("os", "system"), b"X\x02\0\0\0ls\x85R.".to_vec()].concat();
        assert_eq!(found(&attack), "the global `os.system`");
        let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.";
        assert_eq!(found(stacked), "the global `builtins.eval`");
    }

    #[test]
    fn known_names_are_no_functions_to_call_otherwise() {
        let storage = [global("torch", "FloatStorage"), b")R.".to_vec()].concat();
        assert!(found(&storage).contains("Storage"), "{}", found(&storage));
        assert_eq!(found(b"i.."), "instruction 0x69 at byte 0");
    }

    #[test]
    fn what_ends_early_or_holds_no_tensors_is_refused() {
        assert_eq!(found(b""), "the end after 0");
        assert_eq!(found(b"}(X\x01\0\0\0aK\x01u."), "1 as `a`");
        assert_eq!(found(b"K\x01."), "1");
        assert_eq!(found(b"\x86."), "fewer");
        assert_eq!(found(b"(0."), "none", "a mark is no value");
    }

    #[test]
    fn copies_of_a_list_are_counted() {
        // `OrderedDict(list)` for a list of 2000 pairs, two thousand times: every call would copy the list.
        let pairs = b"K\x01K\x02\x86".repeat(2000);
        let list = [b"](".to_vec(), pairs, b"eq\x00".to_vec()].concat();
        let call = [global("collections", "OrderedDict"), b"q\x01".to_vec()].concat();
        let calls = b"h\x01h\x00\x85R".repeat(2000);
        assert_eq!(found(&[list, call, calls, b".".to_vec()].concat()), "more: it repeats itself");
        // Each of a thousand values is put on the stack again, and all of them into one tuple, by each byte.
        assert_eq!(found(&[b"N".repeat(10), b"(".to_vec(), b"h\x00".repeat(9)].concat()), "the number 0");
        let marks = [b"Nq\x00".to_vec(), b"(h\x00h\x00h\x00t".repeat(1000), b".".to_vec()].concat();
        assert_eq!(found(&marks), "a tuple");
    }

    #[test]
    fn repetition_does_not_multiply() {
        // A tuple of twice the tuple before, a thousand times.
        let doubling = [b"))\x86".to_vec(), b"q\x00h\x00\x86".repeat(1000), b".".to_vec()].concat();
        assert_eq!(found(&doubling), "a tuple");
    }

    /// `OrderedDict` of one tensor [2, 3], as torch writes it.
    fn one_tensor() -> Vec<u8> {
        let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\0\0\0aq\x02".to_vec();
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07\0\0\0storageq\x04ctorch\nHalfStorage\nq\x05");
        pickle.extend(b"X\x01\0\0\x000q\x06X\x03\0\0\0cpuq\x07K\x06tq\x08QK\x00K\x02K\x03\x86q\x09K\x03K\x01\x86q\x0a");
        pickle.extend(b"\x89h\x00)Rq\x0btq\x0cRq\x0du}q\x0eX\x09\0\0\0_metadatah\x00)Rsb.");
        pickle
    }

    #[test]
    fn a_state_dict_is_read() {
        let expected = Tensor {
            storage: "0".into(),
            element: Some(Element::F16),
            storage_len: 6,
            offset: 0,
            shape: vec![2, 3],
            stride: vec![3, 1],
        };
        assert_eq!(state_dict(&one_tensor()), Ok(vec![("a".to_owned(), expected)]));
    }

    #[test]
    fn mutated_pickles_never_panic() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let whole = one_tensor();
        let read = (0..200_000).filter(|_| {
            let mut pickle = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..pickle.len());
                match rng.random_range(0..4) {
                    0 => pickle[at] = rng.random(),
                    1 => drop(pickle.remove(at)),
                    2 => pickle.insert(at, rng.random()),
                    // One instruction in the place of another.
                    _ => pickle[at] = *b"(.)0QRabehjlqrstu]}".choose(&mut rng).unwrap_or(&b'.'),
                }
            }
            state_dict(&pickle).is_ok()
        });
        let n = read.count();
        assert!((1000..150_000).contains(&n), "{n} of them were read");
    }

    #[test]
    fn integers_have_signs() {
        assert_eq!(found(b"\x8a\x01\xff."), "-1");
        assert_eq!(found(b"\x8a\x00."), "0");
        assert_eq!(found(b"\x8a\x02\xff\x00."), "255");
        assert_eq!(found(b"\x8a\x09\0\0\0\0\0\0\0\0\0."), "9 bytes");
        assert_eq!(found(b"J\xfe\xff\xff\xff."), "-2");
    }
}
