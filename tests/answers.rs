//! The distribution of the next token on English text, against stock's.

use zen5turbo_tests::distance::compare_with_stock;
use zen5turbo_tests::{Program, llama};

#[test]
fn answers_are_as_close_to_stock_as_two_paths_of_stock_are_to_each_other() {
    let (run, same) = compare_with_stock(&llama("llama-perplexity"), 8, "", |path| Program::engaged(path));
    assert!(run.stats().taken("MUL_MAT", None) > 0, "{}", run.stats());
    assert!(run.stats().taken("FLASH_ATTN_EXT", Some("f16")) > 0, "{}", run.stats());
    assert!(same >= 95.0, "same top token: {same} %");
}

/// Without flash attention keys and values are matrices of products, views of the KV cache.
#[test]
fn without_flash_attention_the_products_of_the_cache_are_taken_over() {
    let start = |path: &_| Program::engaged(path);
    let (run, same) = compare_with_stock(&llama("llama-perplexity"), 2, "-fa off", start);
    assert!(run.stats().taken("MUL_MAT", Some("f16")) > 0, "{}", run.stats());
    assert_eq!(run.stats().taken("FLASH_ATTN_EXT", None), 0, "{}", run.stats());
    // 95 as above, less two standard errors: of 510 tokens the share has one of 1.0 %.
    assert!(same >= 93.0, "same top token: {same} %");
}
