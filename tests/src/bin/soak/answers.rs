//! Fixed prompts, whose answers must not change.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::client::{Client, token};

/// Greedy answers to the fixed prompts, in tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct Answers(Vec<Vec<u32>>);

/// The fixed requests, without a slot: lengths from a word to nearly all of a slot's context, whose answer needs a
/// context shift.
pub fn requests(text: &[u32], context: usize) -> Vec<Value> {
    let lengths = [2, 17, 70, 300, context / 2, context - 24];
    let request = |(i, &length): (usize, &usize)| {
        let start = (i * 997) % (text.len() - context);
        json!({
            "prompt": &text[start..start + length], "n_predict": 48, "temperature": 0.0, "ignore_eos": true,
            "cache_prompt": false, "return_tokens": true,
        })
    };
    lengths.iter().enumerate().map(request).collect()
}

impl Answers {
    /// Asks them one after the other, each in the next slot; nothing else may run on the server.
    pub fn ask(client: &Client, requests: &[Value], slots: usize) -> Result<Self> {
        let ask = |(i, request): (usize, &Value)| {
            let mut request = request.clone();
            request["id_slot"] = json!(i % slots);
            tokens(&client.complete(&request)?)
        };
        requests.iter().enumerate().map(ask).collect::<Result<_>>().map(Self)
    }

    /// An error that names the first difference from what `self`, the earlier run, answered.
    pub fn check(&self, now: &Self, when: &str) -> Result<()> {
        for (number, (before, now)) in self.0.iter().zip(&now.0).enumerate() {
            if before != now {
                let at = before.iter().zip(now).take_while(|(a, b)| a == b).count();
                bail!(
                    "{when} fixed prompt {number} was answered with other tokens from token {at} on: {:?}, expected \
                     as in the first run {:?}",
                    &now[at.min(now.len())..],
                    &before[at.min(before.len())..]
                );
            }
        }
        Ok(())
    }

    /// Whether this is the answer to the request of that number.
    pub fn is(&self, number: usize, answer: &Value) -> bool {
        tokens(answer).is_ok_and(|tokens| tokens == self.0[number])
    }
}

fn tokens(answer: &Value) -> Result<Vec<u32>> {
    answer["tokens"].as_array().map_or(&[][..], Vec::as_slice).iter().map(token).collect()
}
