//! The load: clients that ask different things at the same time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::answers::Answers;
use crate::client::Client;
use crate::options::Options;

/// What was asked so far, of one server.
#[derive(Default, Serialize)]
pub struct Counts {
    /// Completions that were answered, streams among them.
    pub completions: AtomicU64,
    /// Tokens of their prompts.
    pub prompt_tokens: AtomicU64,
    /// Tokens of their answers.
    pub tokens: AtomicU64,
    /// Streams that were read to their end.
    pub streams: AtomicU64,
    /// Streams that were cut after some tokens.
    pub cancelled: AtomicU64,
    /// Connections that were closed before an answer; a slot may or may not have seen them.
    pub abandoned: AtomicU64,
    /// Answers that went beyond the slot's context.
    pub shifted: AtomicU64,
    /// Requests that are too long for the context, which a slot refuses.
    pub too_long: AtomicU64,
    /// Bodies that are no request, which the server refuses.
    pub refused: AtomicU64,
    /// Fixed prompts under load.
    pub fixed: AtomicU64,
    /// Fixed prompts whose answer under load was that of the quiet phases.
    pub fixed_same: AtomicU64,
}

impl Counts {
    /// Tasks that a slot has taken, at least and at most.
    pub fn tasks(&self) -> [u64; 2] {
        let sure = [&self.completions, &self.cancelled, &self.too_long].iter().map(|n| n.load(Relaxed)).sum();
        [sure, sure + self.abandoned.load(Relaxed)]
    }
}

/// A kind of request.
#[derive(Clone, Copy)]
enum Kind {
    /// Prompts of up to 16 tokens, a quarter of a slot's context, and nearly all of it.
    Short,
    Medium,
    Long,
    /// The answer goes beyond the context.
    Shifted,
    /// A stream that is read to its end, one that is cut, and a connection that is closed before the answer.
    Streamed,
    Cancelled,
    Abandoned,
    /// One of the fixed prompts, in whatever slot.
    Fixed,
    /// What the server must refuse.
    TooLong,
    Refused,
    /// About the server itself.
    Question,
}

impl Kind {
    /// With how often each is drawn.
    const ALL: [(Self, u32); 11] = [
        (Self::Shifted, 4),
        (Self::Cancelled, 10),
        (Self::Long, 8),
        (Self::Streamed, 10),
        (Self::Short, 30),
        (Self::Medium, 20),
        (Self::Abandoned, 6),
        (Self::Fixed, 6),
        (Self::TooLong, 2),
        (Self::Refused, 1),
        (Self::Question, 3),
    ];

    fn drawn(rng: &mut fastrand::Rng) -> Self {
        let all: u32 = Self::ALL.iter().map(|&(_, share)| share).sum();
        let mut left = rng.u32(..all);
        for (kind, share) in Self::ALL {
            match left.checked_sub(share) {
                Some(rest) => left = rest,
                None => return kind,
            }
        }
        Self::Short
    }
}

/// What the clients share.
pub struct Load<'a> {
    /// The command line.
    pub options: &'a Options,
    /// Tokens that prompts are cut from.
    pub text: &'a [u32],
    /// The fixed requests.
    pub fixed: &'a [Value],
    /// Their answers when nothing else runs.
    pub answers: &'a Answers,
    /// Where the server listens.
    pub port: u16,
    /// What was asked.
    pub counts: &'a Counts,
}

impl Load<'_> {
    /// Runs the clients while `meanwhile`, on this thread, does; it is given the sign of a client that has failed.
    /// Every answer is awaited. The first error of a client.
    pub fn run(&self, round: u64, meanwhile: impl FnOnce(&AtomicBool) -> Result<()>) -> Result<()> {
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let result = std::thread::scope(|scope| {
            for number in 0..self.options.clients {
                let (stop, failure) = (&stop, &failure);
                scope.spawn(move || {
                    if let Err(error) = self.client(number, round, stop) {
                        stop.store(true, Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
            let result = meanwhile(&stop);
            stop.store(true, Relaxed);
            result
        });
        // A server that has ended makes the clients fail; that it has is the better message.
        result.and(failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err))
    }

    /// Asks until it is told to stop. In the first round it begins with its share of all kinds, and asks those in
    /// any case: so each kind occurs, be the machine as slow as it may.
    fn client(&self, number: u64, round: u64, stop: &AtomicBool) -> Result<()> {
        let client = Client::new(self.port);
        let mut rng = fastrand::Rng::with_seed(self.options.seed ^ (round << 32) ^ (number << 16));
        if round == 0 {
            for &(kind, _) in Kind::ALL.iter().skip(number as usize).step_by(self.options.clients as usize) {
                self.one(kind, &client, &mut rng)?;
            }
        }
        while !stop.load(Relaxed) {
            self.one(Kind::drawn(&mut rng), &client, &mut rng)?;
            if rng.u8(..8) == 0 {
                std::thread::sleep(Duration::from_millis(rng.u64(..500)));
            }
        }
        Ok(())
    }

    fn one(&self, kind: Kind, client: &Client, rng: &mut fastrand::Rng) -> Result<()> {
        let context = self.options.context;
        match kind {
            Kind::Short => self.ordinary(client, &self.request(rng, 1..=16, 1..=64)),
            Kind::Medium => self.ordinary(client, &self.request(rng, 17..=context / 4, 1..=48)),
            Kind::Long => self.ordinary(client, &self.request(rng, context / 4..=context * 9 / 10, 1..=16)),
            Kind::Shifted => self.shifted(client, rng),
            Kind::Streamed => self.streamed(client, &self.request(rng, 1..=context / 4, 1..=64)),
            Kind::Cancelled => self.cancelled(client, rng),
            Kind::Abandoned => self.abandoned(client, rng),
            Kind::Fixed => self.fixed(client, rng),
            Kind::TooLong => self.too_long(client),
            Kind::Refused => self.refused(client),
            Kind::Question => self.question(client, rng),
        }
    }

    fn request(
        &self,
        rng: &mut fastrand::Rng,
        prompt: std::ops::RangeInclusive<usize>,
        predict: std::ops::RangeInclusive<usize>,
    ) -> Value {
        let length = rng.usize(prompt);
        // From few places, so that a prompt often begins as one that a slot holds.
        let start = rng.usize(..8) * (self.text.len() - self.options.context) / 8;
        let slot = if rng.bool() { rng.usize(..self.options.slots) as i64 } else { -1 };
        json!({
            "prompt": &self.text[start..start + length], "n_predict": rng.usize(predict), "id_slot": slot,
            "cache_prompt": rng.bool(), "temperature": if rng.bool() { 0.0 } else { 0.9 }, "seed": rng.u32(..),
            "ignore_eos": rng.bool(), "return_tokens": true,
            "n_probs": if rng.u8(..4) == 0 { 5 } else { 0 },
        })
    }

    fn count(&self, request: &Value, tokens: u64) {
        self.counts.completions.fetch_add(1, Relaxed);
        self.counts.prompt_tokens.fetch_add(request["prompt"].as_array().map_or(0, Vec::len) as u64, Relaxed);
        self.counts.tokens.fetch_add(tokens, Relaxed);
    }

    fn complete(&self, client: &Client, request: &Value) -> Result<Value> {
        let answer = client.complete(request)?;
        self.count(request, answer["tokens_predicted"].as_u64().unwrap_or(0));
        Ok(answer)
    }

    fn ordinary(&self, client: &Client, request: &Value) -> Result<()> {
        self.complete(client, request).map(drop)
    }

    fn shifted(&self, client: &Client, rng: &mut fastrand::Rng) -> Result<()> {
        let context = self.options.context;
        let mut request = self.request(rng, context - 40..=context - 8, 60..=120);
        request["ignore_eos"] = json!(true);
        let answer = self.complete(client, &request)?;
        self.counts.shifted.fetch_add(u64::from(answer["truncated"] == true), Relaxed);
        Ok(())
    }

    fn streamed(&self, client: &Client, request: &Value) -> Result<()> {
        let tokens = client.stream(request, usize::MAX)?;
        self.count(request, tokens as u64);
        self.counts.streams.fetch_add(1, Relaxed);
        Ok(())
    }

    fn cancelled(&self, client: &Client, rng: &mut fastrand::Rng) -> Result<()> {
        let mut request = self.request(rng, 1..=self.options.context / 2, 200..=400);
        request["ignore_eos"] = json!(true);
        client.stream(&request, rng.usize(2..40))?;
        self.counts.cancelled.fetch_add(1, Relaxed);
        Ok(())
    }

    fn abandoned(&self, client: &Client, rng: &mut fastrand::Rng) -> Result<()> {
        let request = self.request(rng, 1..=self.options.context * 9 / 10, 1..=200);
        self.counts.abandoned.fetch_add(1, Relaxed);
        client.abandon(&request, Duration::from_millis(rng.u64(..1500)))
    }

    fn fixed(&self, client: &Client, rng: &mut fastrand::Rng) -> Result<()> {
        let number = rng.usize(..self.fixed.len());
        let answer = self.complete(client, &self.fixed[number])?;
        self.counts.fixed.fetch_add(1, Relaxed);
        self.counts.fixed_same.fetch_add(u64::from(self.answers.is(number, &answer)), Relaxed);
        Ok(())
    }

    fn too_long(&self, client: &Client) -> Result<()> {
        let request = json!({ "prompt": &self.text[..self.options.context + 1], "n_predict": 1 });
        self.counts.too_long.fetch_add(1, Relaxed);
        must_be_refused(client, &request)
    }

    fn refused(&self, client: &Client) -> Result<()> {
        self.counts.refused.fetch_add(1, Relaxed);
        must_be_refused(client, &json!({ "prompt": { "no": "prompt" } }))
    }

    fn question(&self, client: &Client, rng: &mut fastrand::Rng) -> Result<()> {
        let reply = client.get(["/slots", "/health", "/props"][rng.usize(..3)])?;
        ensure!(reply.status == 200, "HTTP status {} for a question, expected 200", reply.status);
        Ok(())
    }
}

fn must_be_refused(client: &Client, request: &Value) -> Result<()> {
    let reply = client.post("/completion", request)?;
    ensure!(reply.status == 400, "HTTP status {} for a wrong request, expected 400: {}", reply.status, reply.body);
    Ok(())
}
