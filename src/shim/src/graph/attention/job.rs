//! The work of an attention that is computed here.

use zen5turbo_kernels::attention::{Attention, Scale};
use zen5turbo_kernels::formats::{LINE, WeightType};

use super::heads::Heads;
use super::order::{Order, Work};
use crate::config::config;
use crate::ggml::abi::Tensor;

/// An attention that is computed here.
pub struct Job {
    pub heads: Heads,
    pub attention: Attention,
    pub scale: Scale,
    /// See [`Heads::slopes`].
    pub slopes: Vec<f32>,
    pub order: Order,
    /// Bytes of all keys and values, each read once, for the statistics.
    pub bytes: u64,
    /// Multiply-adds of all queries and keys, for the statistics.
    pub macs: u64,
    /// Multiply-adds of one query and one key.
    pub macs_of_product: u64,
}

impl Job {
    /// The job of an attention that `decide` has checked.
    pub fn new(
        op: &Tensor,
        heads: Heads,
        attention: Attention,
        ((key_type, key_len), (value_type, value_len)): ((WeightType, usize), (WeightType, usize)),
        threads: usize,
    ) -> Self {
        let [scale, max_bias, cap] = [0, 1, 2].map(|i| f32::from_bits(op.op_params[i] as u32));
        let row_bytes = [key_type.row_bytes(key_len), value_type.row_bytes(value_len)];
        let read = heads.groups() / heads.batches_sharing * heads.keys;
        let macs = heads.groups() * heads.rows() * heads.keys * (key_len + value_len);
        let bytes = read * (row_bytes[0] + row_bytes[1]);
        let work = Work {
            rows: heads.rows(),
            groups: heads.groups(),
            batches: heads.batches,
            keys: heads.keys,
            bytes,
            sums: 4 * attention.sums_len() * heads.groups() * heads.rows(),
            most_rows: attention.most_queries(),
        };
        Job {
            scale: Scale { scale: if cap == 0.0 { scale } else { scale / cap }, cap },
            slopes: heads.slopes(max_bias, |x| attention.exp(x)),
            order: if config().invariant { Order::all_keys(&work, threads) } else { Order::choose(&work, threads) },
            bytes: bytes as u64,
            macs: macs as u64,
            macs_of_product: (key_len + value_len) as u64,
            heads,
            attention,
        }
    }

    /// The number of queries of all groups.
    pub fn all_rows(&self) -> usize {
        self.heads.groups() * self.heads.rows()
    }

    /// The number of queries whose sums a thread keeps for itself, after its scratch.
    fn own_rows(&self) -> usize {
        match self.order {
            Order::Heads { .. } => self.attention.most_queries(),
            Order::Keys { parts: 1, .. } => self.all_rows() / self.heads.batches,
            Order::Keys { .. } => 0,
        }
    }

    /// Bytes of scratch before these sums.
    pub fn scratch_bytes(&self) -> usize {
        match self.order {
            Order::Heads { .. } => self.attention.scratch_bytes(),
            Order::Keys { .. } => {
                self.attention.heads_scratch_bytes(self.heads.key_heads(), self.heads.rows()).next_multiple_of(LINE)
            }
        }
    }

    /// Bytes of scratch and sums of one thread.
    pub fn thread_bytes(&self) -> usize {
        self.scratch_bytes() + 4 * self.attention.sums_len() * self.own_rows()
    }

    /// Bytes of scratch that all threads share.
    pub fn shared_bytes(&self) -> usize {
        match self.order {
            Order::Keys { parts, .. } if parts > 1 => 4 * self.attention.sums_len() * parts * self.all_rows(),
            _ => 0,
        }
    }
}
