//! A client of llama-server: what it asks, and when the tokens arrive.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::prompts::Request;

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server said that it is the end.
    Whole,
    /// The client hung up after as many tokens as it was told.
    Cancelled,
    /// The load was stopped.
    Stopped,
    /// Refused, broken off, or without a sense; in words.
    Failed(String),
}

/// An answer as the client saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// From the moment at which the request was due to its first token.
    pub first_ms: Option<f64>,
    /// From each event with tokens to the next one.
    pub gaps_ms: Vec<f64>,
    pub tokens: u64,
    pub prompt_tokens: u64,
    /// Of the prompt, found in the server's cache.
    pub prompt_tokens_cached: u64,
    /// Tokens that were asked for and did not come, though the answer came to its end.
    pub lost: u64,
    pub end: End,
}

impl Answer {
    fn new(end: End) -> Answer {
        Answer {
            first_ms: None,
            gaps_ms: Vec::new(),
            tokens: 0,
            prompt_tokens: 0,
            prompt_tokens_cached: 0,
            lost: 0,
            end,
        }
    }

    /// One that was not asked for.
    pub fn stopped() -> Answer {
        Answer::new(End::Stopped)
    }
}

/// What others want of a client while it waits.
pub struct Signals<'a> {
    /// Becomes true with the first token.
    pub began: &'a AtomicBool,
    /// The client hangs up at the next event after this becomes true.
    pub hang_up: &'a AtomicBool,
}

/// A client of the server on a port of this machine. Each request has a connection of its own, which closes with its answer.
#[derive(Clone, Debug)]
pub struct Client {
    /// For answers.
    agent: ureq::Agent,
    /// For questions about the server itself.
    quick: ureq::Agent,
    port: u16,
}

/// How long a question about the server itself may take: nobody looks for Ctrl-C meanwhile.
const QUICK: Duration = Duration::from_secs(5);

/// Whether slots of the server compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    Idle,
    Busy,
    /// The server does not tell.
    Unknown,
}

impl Client {
    /// An answer that takes longer than `limit` is an error.
    pub fn new(port: u16, limit: Duration) -> Client {
        let agent = |limit| {
            let config = ureq::Agent::config_builder().timeout_global(Some(limit)).http_status_as_error(false);
            // A proxy of the environment is for other machines.
            config.proxy(None).max_idle_connections(0).build().new_agent()
        };
        Client { agent: agent(limit), quick: agent(QUICK), port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// `GET`, of which the answer is JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        read(self.quick.get(self.url(path)).call(), path)
    }

    /// Whether slots compute.
    pub fn slots(&self) -> Slots {
        match self.get("/slots") {
            Ok(slots) => {
                let busy = slots.as_array().is_some_and(|slots| slots.iter().any(|slot| slot["is_processing"] == true));
                if busy { Slots::Busy } else { Slots::Idle }
            }
            // It answers between two batches.
            Err(error) if matches!(error.downcast_ref(), Some(ureq::Error::Timeout(_))) => Slots::Busy,
            Err(_) => Slots::Unknown,
        }
    }

    /// `POST` of JSON, of which the answer is JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.post(self.url(path)).header("Content-Type", "application/json");
        read(request.send(body.to_string()), path)
    }

    /// The tokens of a text, their number.
    pub fn count_tokens(&self, text: &str) -> Result<u64> {
        let answer = self.post("/tokenize", &json!({"content": text, "add_special": true}))?;
        answer["tokens"].as_array().map(|tokens| tokens.len() as u64).context("llama-server's /tokenize gave no tokens")
    }

    /// Asks for a completion and reads it as it comes. Its times count from `due`.
    pub fn ask(&self, request: &Request, due: Instant, signals: &Signals<'_>) -> Answer {
        let mut answer = Answer::new(End::Stopped);
        answer.end =
            self.stream(request, due, signals, &mut answer).unwrap_or_else(|error| End::Failed(format!("{error:#}")));
        answer
    }

    fn stream(&self, request: &Request, due: Instant, signals: &Signals<'_>, answer: &mut Answer) -> Result<End> {
        let body = json!({
            "prompt": request.prompt, "n_predict": request.tokens, "temperature": 0, "ignore_eos": true,
            "cache_prompt": true, "return_tokens": true, "stream": true,
        });
        let sent = self.agent.post(self.url("/completion")).header("Content-Type", "application/json");
        let mut response = sent.send(body.to_string()).context("/completion")?;
        if response.status().as_u16() != 200 {
            let status = response.status().as_u16();
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(anyhow!("/completion: HTTP status {status}, expected 200: {}", short(&text)));
        }
        let mut pieces = Pieces::default();
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line.context("the stream broke off")?;
            let now = Instant::now();
            let Some(event) = event(&line)? else { continue };
            if event["stop"] == true {
                answer.take_in_last(&event, request, &pieces);
                return Ok(End::Whole);
            }
            if pieces.take_in(&event) {
                match pieces.last.replace(now) {
                    Some(before) => answer.gaps_ms.push(ms(now - before)),
                    None => {
                        answer.first_ms = Some(ms(now.saturating_duration_since(due)));
                        signals.began.store(true, Ordering::Relaxed);
                    }
                }
                answer.tokens = pieces.tokens;
            }
            // Leaving closes the connection.
            if request.hang_up_after.is_some_and(|most| pieces.tokens >= u64::from(most)) {
                return Ok(End::Cancelled);
            }
            if signals.hang_up.load(Ordering::Relaxed) {
                return Ok(End::Stopped);
            }
        }
        Err(anyhow!(
            "the stream ended after {} of {} tokens, expected an event that says so",
            pieces.tokens,
            request.tokens
        ))
    }
}

/// What arrived of an answer so far.
#[derive(Debug, Default)]
struct Pieces {
    tokens: u64,
    /// Whether the server lists the tokens, which those before December 2024 do not.
    listed: bool,
    /// The server holds tokens back that end within a character, and lists them with none.
    all_ascii: bool,
    last: Option<Instant>,
}

impl Pieces {
    /// Whether an event has tokens.
    fn take_in(&mut self, event: &Value) -> bool {
        let text = event["content"].as_str().unwrap_or_default();
        let tokens = match event["tokens"].as_array() {
            Some(tokens) => {
                self.all_ascii = text.is_ascii() && (self.all_ascii || self.tokens == 0);
                self.listed = true;
                tokens.len() as u64
            }
            None => u64::from(!text.is_empty()),
        };
        self.tokens += tokens;
        tokens > 0
    }
}

impl Answer {
    fn take_in_last(&mut self, event: &Value, request: &Request, pieces: &Pieces) {
        let wanted = u64::from(request.tokens);
        let counted = event["tokens_predicted"].as_u64().unwrap_or(0);
        let certain = pieces.listed && (pieces.all_ascii || pieces.tokens > wanted);
        let received = if certain { counted.min(pieces.tokens) } else { counted };
        self.lost = wanted.saturating_sub(received);
        self.tokens = counted;
        self.prompt_tokens = event["tokens_evaluated"].as_u64().unwrap_or(0);
        self.prompt_tokens_cached = event["timings"]["cache_n"].as_u64().unwrap_or(0).min(self.prompt_tokens);
    }
}

/// The object of a line of a stream; `None` for lines between.
fn event(line: &str) -> Result<Option<Value>> {
    let failed = |value: &Value| {
        anyhow!(
            "the server says: {}",
            short(&value["message"].as_str().map_or_else(|| value.to_string(), str::to_owned))
        )
    };
    if let Some(error) = line.strip_prefix("error: ") {
        return Err(failed(&serde_json::from_str(error).unwrap_or_else(|_| json!(error))));
    }
    let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { return Ok(None) };
    let event: Value = serde_json::from_str(data).with_context(|| format!("an event is no JSON: {}", short(data)))?;
    ensure!(event.get("error").is_none(), failed(&event["error"]));
    Ok(Some(event))
}

fn read(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>, path: &str) -> Result<Value> {
    let mut response = response.with_context(|| path.to_owned())?;
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().with_context(|| path.to_owned())?;
    ensure!(status == 200, "{path}: HTTP status {status}, expected 200: {}", short(&text));
    serde_json::from_str(&text).with_context(|| format!("{path}: the answer is no JSON: {}", short(&text)))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The beginning of a text, on one line.
fn short(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tokens: u32) -> Request {
        Request { prompt: "x".into(), tokens, hang_up_after: None }
    }

    /// What is lost of three tokens when these events arrive, and the last one counts so many.
    fn lost(events: &[&str], counted: u64) -> u64 {
        let mut pieces = Pieces::default();
        for line in events {
            pieces.take_in(&event(&format!("data: {line}")).unwrap().unwrap());
        }
        let mut answer = Answer::stopped();
        let last = json!({"stop": true, "tokens_predicted": counted, "tokens_evaluated": 9, "timings": {"cache_n": 4}});
        answer.take_in_last(&last, &request(3), &pieces);
        assert_eq!((answer.prompt_tokens, answer.prompt_tokens_cached), (9, 4));
        answer.lost
    }

    #[test]
    fn lost_tokens_are_those_asked_for_that_did_not_come() {
        let a = r#"{"content":"a","tokens":[1]}"#;
        assert_eq!(lost(&[a, a, a], 3), 0);
        assert_eq!(lost(&[a, a], 3), 1, "counted, and not sent");
        assert_eq!(lost(&[a, a], 2), 1);
        assert_eq!(lost(&[r#"{"content":"ab","tokens":[1,2]}"#, a], 3), 0, "a draft was accepted");
        let part = r#"{"content":"é","tokens":[7]}"#;
        assert_eq!(lost(&[part, a], 3), 0, "a token that ended within a character came with another one");
        assert_eq!(lost(&[r#"{"content":"a"}"#], 3), 0, "an old server lists no tokens");
    }

    #[test]
    fn lines_that_are_no_events_are_passed_over_and_errors_are_told() {
        for line in ["", ": ping", "data: [DONE]", "event: x"] {
            assert!(event(line).unwrap().is_none(), "{line}");
        }
        let error = |line: &str| format!("{:#}", event(line).unwrap_err());
        assert_eq!(error(r#"data: {"error":{"code":400,"message":"too long"}}"#), "the server says: too long");
        assert_eq!(error(r#"error: {"message":"no slot"}"#), "the server says: no slot");
        assert!(error("data: {cut").contains("no JSON: {cut"));
    }
}
