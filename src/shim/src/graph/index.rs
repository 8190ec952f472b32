//! Finds the nodes of a plan by the address of their operation.

use crate::ggml::abi::Tensor;

/// Open-addressed hash table from the address of an operation to its position in a list.
pub struct Index {
    /// The position plus 1; 0 where there is none.
    slots: Vec<u32>,
}

impl Index {
    /// An empty index, which takes no memory.
    pub const fn new() -> Self {
        Index { slots: Vec::new() }
    }

    /// Builds the index of a list. Of an earlier index, only the memory is kept.
    pub fn build(&mut self, ops: impl ExactSizeIterator<Item = *const Tensor>) {
        let size = (ops.len() * 2 + 1).next_power_of_two();
        self.slots.clear();
        self.slots.resize(size, 0);
        for (i, op) in ops.enumerate() {
            let mut at = hash(op, size);
            while self.slots[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = i as u32 + 1;
        }
    }

    /// The position of `op`; `op_at` returns the operation at a position.
    #[inline]
    pub fn find(&self, op: *const Tensor, op_at: impl Fn(usize) -> *const Tensor) -> Option<usize> {
        let size = self.slots.len();
        if size == 0 {
            return None;
        }
        let mut at = hash(op, size);
        while self.slots[at] != 0 {
            let i = self.slots[at] as usize - 1;
            if op_at(i) == op {
                return Some(i);
            }
            at = (at + 1) & (size - 1);
        }
        None
    }
}

fn hash(op: *const Tensor, size: usize) -> usize {
    ((op as usize >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) & (size - 1)
}
