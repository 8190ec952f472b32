//! What ggml hands over, checked before it is used: no pointer and no number of the host is believed.
//!
//! What is wrong here was made by a build of ggml that nobody has seen, or by a program that destroys its own memory.
//! The original runs, and the reason is counted. A wild pointer can not be told from a right one; null, the first page and
//! odd addresses can.

use std::ffi::{c_char, c_int, c_void};
use std::ops::Range;
use std::slice;

use zen5turbo_kernels::formats::WeightType;

use crate::abi::{CPlan, ComputeParams, Tensor};

/// No object has an address below this one: where `vm.mmap_min_addr` is set it is 4096 at least.
pub const FIRST_ADDRESS: usize = 4096;

/// Bytes of the longest name that is accepted from ggml. Its own are shorter than 41: a commit.
const LONGEST_NAME: usize = 255;

/// Nodes of a graph, at most. llama.cpp's largest have some 65 thousand.
pub const MAX_NODES: c_int = 1 << 20;

/// Threads of a graph, at most; `GGML_MAX_N_THREADS` is 512.
pub const MAX_THREADS: c_int = 4096;

/// Elements of a tensor, at most: products of two such numbers, and bytes, fit into 64 bits.
const MAX_ELEMENTS: i64 = 1 << 42;

/// Whether a `T` can lie at `p`.
#[inline]
pub fn is_address<T>(p: *const T) -> bool {
    p.addr() >= FIRST_ADDRESS && p.is_aligned()
}

/// The object at `p`; `None` where none can lie.
///
/// # Safety
/// `p` is null, another address where no object can lie, or that of a `T` that lives for `'a`.
#[inline]
pub unsafe fn object<'a, T>(p: *const T) -> Option<&'a T> {
    // SAFETY: by the contract of this function an address that passes the check is that of a `T` that lives for `'a`.
    is_address(p).then(|| unsafe { &*p })
}

/// The text in a field of a tensor, which ends with the field at the latest.
pub fn text(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).replace(char::is_control, "?")
}

/// The entries of an array that ends with null; `None` when it has more than `most`.
///
/// # Safety
/// `list` is readable up to its null, or to `most` entries.
pub unsafe fn entries(list: *const *mut c_void, most: usize) -> Option<Vec<*mut c_void>> {
    // SAFETY: the list is readable up to its null or to `most` entries, by the contract of this function. An entry is read
    // only when none before it was null.
    let len = (0..=most).find(|&i| unsafe { list.add(i).read() }.is_null())?;
    // SAFETY: the search above has just read these entries.
    Some((0..len).map(|i| unsafe { list.add(i).read() }).collect())
}

impl CPlan {
    /// The work buffer, null where no node needs one, and the number of threads, of a plan that ggml can make.
    pub fn usable(&self) -> Option<(*mut c_void, usize)> {
        let threads = (1..=MAX_THREADS).contains(&self.n_threads).then_some(self.n_threads as usize)?;
        (self.work_data.is_null() || self.work_data.addr() >= FIRST_ADDRESS).then_some((self.work_data, threads))
    }
}

impl ComputeParams {
    /// Whether this is a thread of its graph, and has what threads wait for each other with.
    #[inline]
    pub fn are_sound(&self) -> bool {
        let lonely = self.nth == 1;
        0 <= self.ith && self.ith < self.nth && (lonely || self.threadpool.addr() >= FIRST_ADDRESS)
    }
}

impl Tensor {
    /// A source, if it has one.
    ///
    /// # Safety
    /// This is a tensor of ggml, and so are its sources, which live as long.
    #[inline]
    pub unsafe fn source(&self, i: usize) -> Option<&Tensor> {
        // SAFETY: a source is null or a tensor that lives as long as this one, by the contract of this function.
        unsafe { object(self.src[i]) }
    }

    /// Whether it has elements, not more than a computer can hold, and none of them lies beyond the end of all addresses.
    pub fn is_sound(&self) -> bool {
        let elements = self.ne.iter().try_fold(1i64, |n, &ne| n.checked_mul(ne).filter(|_| ne > 0));
        elements.is_some_and(|n| n <= MAX_ELEMENTS) && self.addresses(None).is_some()
    }

    /// The addresses that its elements lie in: none of an empty one, all that there are where it cannot be known. Of a type
    /// whose blocks are not known (`None`) more than that.
    pub fn extent(&self, ty: Option<WeightType>) -> Range<usize> {
        if self.ne.iter().any(|&n| n <= 0) { 0..0 } else { self.addresses(ty).unwrap_or(0..usize::MAX) }
    }

    /// Those of a tensor with elements; `None` when they do not fit the address space.
    fn addresses(&self, ty: Option<WeightType>) -> Option<Range<usize>> {
        let (block, bytes) = ty.map_or((1, self.nb[0]), WeightType::block);
        // The first dimension of blocks lies without gaps; that of single elements need not.
        let row = match usize::try_from(self.ne[0]).ok()? {
            n if block == 1 => (n - 1).checked_mul(self.nb[0])?.checked_add(bytes)?,
            n => n.div_ceil(block).checked_mul(bytes)?,
        };
        let len = (1..4).try_fold(row, |sum, i| {
            let steps = usize::try_from(self.ne[i] - 1).ok()?;
            sum.checked_add(steps.checked_mul(self.nb[i])?)
        })?;
        let start = self.data.addr();
        Some(start..start.checked_add(len).filter(|_| isize::try_from(len).is_ok())?)
    }
}

/// A string that a function of ggml returned. `None` for a null pointer, which Ollama 0.12 to 0.24 returns for its version
/// (compiled with `GGML_VERSION=0x0`), and for what is no name: nothing, more than 255 bytes, control characters, not UTF-8.
///
/// # Safety
/// `p` is null, or readable up to its first zero byte.
#[must_use]
pub unsafe fn ggml_name<'a>(p: *const c_char) -> Option<&'a str> {
    if p.addr() < FIRST_ADDRESS {
        return None;
    }
    // SAFETY: the string is readable up to its zero, by the contract of this function. A byte is read only when none before
    // it was zero.
    let len = (0..=LONGEST_NAME).find(|&i| unsafe { p.add(i).read() } == 0)?;
    // SAFETY: the loop above has just read these bytes.
    let bytes = unsafe { slice::from_raw_parts(p.cast::<u8>(), len) };
    str::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn tensor(ne: [i64; 4], nb: [usize; 4], start: usize) -> Tensor {
        // SAFETY: a tensor is integers and pointers, for which zeroes are valid.
        let mut t: Tensor = unsafe { std::mem::zeroed() };
        (t.ne, t.nb, t.data) = (ne, nb, std::ptr::without_provenance_mut(start));
        t
    }

    #[test]
    fn no_object_lies_at_null_in_the_first_page_or_at_an_odd_address() {
        let value = 7usize;
        // SAFETY: a number of this function, and addresses where no object can lie.
        unsafe {
            assert_eq!(object(&raw const value), Some(&7));
            for nowhere in [0, 1, 4088, (&raw const value).addr() + 1] {
                assert_eq!(object::<usize>(std::ptr::without_provenance(nowhere)), None);
            }
        }
    }

    #[test]
    fn a_field_without_an_end_is_read_to_its_end() {
        assert_eq!(text(&[b'a' as c_char; 64]), "a".repeat(64));
        assert_eq!(text(&[b'a' as c_char, 0, b'b' as c_char]), "a");
        assert_eq!(text(&[27, -1]), "?\u{fffd}");
    }

    #[test]
    fn an_endless_array_has_no_entries() {
        let (entry, null) = (std::ptr::dangling_mut::<c_void>(), std::ptr::null_mut());
        let list = [entry, entry, null, entry];
        // SAFETY: an array of four entries, of which the third is null.
        unsafe {
            assert_eq!(entries(list.as_ptr(), 3), Some(vec![entry; 2]));
            assert_eq!(entries(list.as_ptr(), 2), Some(vec![entry; 2]));
            assert_eq!(entries(list.as_ptr(), 1), None);
        }
    }

    #[test]
    fn a_tensor_has_elements_and_ends_within_the_address_space() {
        let q8_0 = tensor([64, 3, 1, 1], [34, 68, 204, 204], 8192);
        assert!(q8_0.is_sound());
        assert_eq!(q8_0.extent(Some(WeightType::Q8_0)), 8192..8192 + 204);
        assert!(q8_0.extent(None).end >= 8192 + 204);
        // transposed
        let f32 = tensor([3, 64, 1, 1], [256, 4, 768, 768], 8192);
        assert_eq!(f32.extent(Some(WeightType::F32)), 8192..8192 + 768);
        for n in [0, -1, i64::MIN, i64::MAX, MAX_ELEMENTS + 1] {
            for dimension in 0..4 {
                let mut t = tensor([1; 4], [4; 4], 8192);
                t.ne[dimension] = n;
                assert!(!t.is_sound(), "{n}");
                assert!(n > 0 || t.extent(Some(WeightType::F32)).is_empty());
            }
        }
        for nb in [usize::MAX, usize::MAX / 2, 1 << 62] {
            let far = tensor([1, 3, 1, 1], [4, nb, 4, 4], 8192);
            assert!(!far.is_sound());
            assert_eq!(far.extent(Some(WeightType::F32)), 0..usize::MAX);
            assert!(tensor([1, 1, 1, 1], [4, nb, 4, 4], 8192).is_sound());
        }
        assert!(!tensor([64, 1, 1, 1], [4, 4, 4, 4], usize::MAX - 100).is_sound());
    }

    #[test]
    fn a_plan_has_threads_and_a_thread_is_one_of_them() {
        let plan = |n_threads, at| CPlan {
            work_size: 0,
            work_data: std::ptr::without_provenance_mut(at),
            n_threads,
            threadpool: std::ptr::null_mut(),
            abort_callback: 0,
        };
        assert!(plan(1, 0).usable().is_some() && plan(MAX_THREADS, 8192).usable().is_some());
        for bad in [plan(0, 8192), plan(-1, 8192), plan(MAX_THREADS + 1, 8192), plan(c_int::MAX, 8192), plan(1, 1)] {
            assert!(bad.usable().is_none());
        }
        let of = |ith, nth, threadpool| {
            let threadpool = std::ptr::without_provenance_mut(threadpool);
            ComputeParams { ith, nth, wsize: 0, wdata: threadpool, threadpool, use_ref: false }.are_sound()
        };
        assert!(of(0, 1, 0) && of(1, 2, 8192));
        assert!(!of(0, 2, 0) && !of(2, 2, 8192) && !of(-1, 2, 8192) && !of(0, 0, 8192) && !of(0, -1, 8192));
    }

    #[test]
    fn a_name_is_short_printable_utf8() {
        // SAFETY: the pointer is that of a C string, which lives until the call returns.
        let of = |text: &CStr| unsafe { ggml_name(text.as_ptr()).map(str::to_owned) };
        assert_eq!(of(c"0.9.4").as_deref(), Some("0.9.4"));
        let long = |n| std::ffi::CString::new(vec![b'x'; n]).unwrap();
        assert!(of(&long(LONGEST_NAME)).is_some() && of(&long(LONGEST_NAME + 1)).is_none());
        for odd in [c"", c"\xff\xfe", c"a\nb", c"\x1b[2J"] {
            assert_eq!(of(odd), None);
        }
        for nowhere in [0, 1, 4095] {
            // SAFETY: nothing is read at an address below the first one.
            assert_eq!(unsafe { ggml_name(std::ptr::without_provenance(nowhere)) }, None);
        }
    }
}
