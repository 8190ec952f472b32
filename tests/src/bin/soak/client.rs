//! Asking the server over HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

/// When an answer counts as lost. Nothing that works comes near it, on a machine that is busy otherwise too.
const LOST: Duration = Duration::from_secs(300);

/// A client with connections of its own; they are closed with the value.
pub struct Client {
    agent: ureq::Agent,
    port: u16,
}

/// What the server sent for one request.
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body, which is JSON.
    pub body: Value,
}

impl Client {
    /// Of the server on this port of this machine.
    pub fn new(port: u16) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(LOST)).http_status_as_error(false);
        Self { agent: config.build().new_agent(), port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// `GET`. An error where there is no connection or no JSON.
    pub fn get(&self, path: &str) -> Result<Reply> {
        let mut response = self.agent.get(self.url(path)).call().with_context(|| format!("GET {path}"))?;
        let body = response.body_mut().read_json().with_context(|| format!("answer to GET {path}"))?;
        Ok(Reply { status: response.status().as_u16(), body })
    }

    /// `POST`. An error where there is no connection or no JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        let mut response = self.agent.post(self.url(path)).send_json(body).with_context(|| format!("POST {path}"))?;
        let body = response.body_mut().read_json().with_context(|| format!("answer to POST {path}"))?;
        Ok(Reply { status: response.status().as_u16(), body })
    }

    /// A completion that must succeed: the answer, checked for what every answer must have.
    pub fn complete(&self, request: &Value) -> Result<Value> {
        let reply = self.post("/completion", request)?;
        check(request, &reply)?;
        Ok(reply.body)
    }

    /// A completion as a stream. It is read to its end, or dropped after `most` pieces, which cancels the task.
    /// The number of tokens that were received.
    pub fn stream(&self, request: &Value, most: usize) -> Result<usize> {
        let mut request = request.clone();
        request["stream"] = json!(true);
        let mut response = self.agent.post(self.url("/completion")).send_json(&request).context("a stream")?;
        let status = response.status().as_u16();
        ensure!(status == 200, "HTTP status {status} for a stream, expected 200");
        let mut tokens = 0;
        let mut finished = false;
        for (pieces, line) in BufReader::new(response.body_mut().as_reader())
            .lines()
            .map_while(Result::ok)
            .filter(|line| is_data(line))
            .enumerate()
        {
            let piece: Value = serde_json::from_str(&line["data: ".len()..]).with_context(|| line.clone())?;
            tokens += piece["tokens"].as_array().map_or(0, Vec::len);
            finished = piece["stop"] == true;
            if finished || pieces + 1 >= most {
                break;
            }
        }
        let cut = tokens >= 1 && most != usize::MAX;
        ensure!(finished || cut, "a stream ended after {tokens} tokens, expected a last piece with \"stop\": true");
        Ok(tokens)
    }

    /// Sends a completion and closes the connection after a while, without having read anything.
    pub fn abandon(&self, request: &Value, after: Duration) -> Result<()> {
        let body = request.to_string();
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).context("a connection")?;
        let head = "POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:";
        write!(connection, "{head} {}\r\n\r\n{body}", body.len()).context("a request")?;
        std::thread::sleep(after);
        Ok(())
    }

    /// The tokens of a text.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let reply = self.post("/tokenize", &json!({ "content": text }))?;
        let tokens = reply.body["tokens"].as_array().ok_or_else(|| anyhow!("no tokens: {}", reply.body))?;
        tokens.iter().map(token).collect()
    }
}

fn is_data(line: &str) -> bool {
    line.starts_with("data: {")
}

/// A token of an answer.
pub fn token(value: &Value) -> Result<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| anyhow!("{value} is no token"))
}

fn check(request: &Value, reply: &Reply) -> Result<()> {
    let Reply { status, body } = reply;
    ensure!(*status == 200, "HTTP status {status}, expected 200: {}", short(body));
    let predicted = body["tokens_predicted"].as_u64();
    let most = request["n_predict"].as_u64();
    ensure!(predicted >= Some(1) && predicted <= most, "{predicted:?} tokens predicted of {most:?}: {}", short(body));
    let asked = request["prompt"].as_array().map(Vec::len);
    let evaluated = body["tokens_evaluated"].as_u64().map(|n| n as usize);
    ensure!(evaluated == asked, "{evaluated:?} tokens evaluated, expected {asked:?}: {}", short(body));
    let stop = body["stop_type"].as_str().unwrap_or_default();
    ensure!(["limit", "eos"].contains(&stop), "stop type {stop:?}, expected limit or eos: {}", short(body));
    Ok(())
}

/// The beginning of a body, for a message.
fn short(body: &Value) -> String {
    body.to_string().chars().take(300).collect()
}
