//! Copies a matrix whose rows lie in columns.

/// Elements of a side of a tile: rows and columns of it are whole cache lines.
const TILE: usize = 16;

/// Copies `rows` rows of `n` elements of four bytes. In the source, an element is `from_step` elements after the one before
/// it, and a row follows its predecessor without a gap. In the result, a row is `to_stride` elements after its predecessor.
///
/// # Safety
/// The source is readable, the result writable, and they do not overlap. Both are aligned to four bytes.
pub unsafe fn transpose(from: *const u32, from_step: usize, to: *mut u32, to_stride: usize, rows: usize, n: usize) {
    for row in (0..rows).step_by(TILE) {
        let rows = row..(row + TILE).min(rows);
        for i in (0..n).step_by(TILE) {
            for row in rows.clone() {
                for i in i..(i + TILE).min(n) {
                    *to.add(row * to_stride + i) = *from.add(i * from_step + row);
                }
            }
        }
    }
}
