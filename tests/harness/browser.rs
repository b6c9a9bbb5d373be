//! A Chromium that a test drives as a person would, by the WebDriver protocol: Debian's packages `chromium` and `chromium-driver`.
//!
//! It ends with the test process, however that ends: a small shell is its parent and kills its process group when the pipe from the test process closes. What it stores
//! is in a folder of its own, which goes with it.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::{ports::ReservedPort, until::until};

/// Starts the driver in a process group of its own, to which its browser belongs, says so, and waits for the end of its input.
const GUARDIAN: &str = r#"
setsid chromedriver --port="$PORT" >"$FOLDER/driver.log" 2>&1 </dev/null & driver=$!
echo started
read -r never
kill -KILL "-$driver" 2>/dev/null
wait
rm -rf "$FOLDER"
"#;

/// Longest wait for something that the page is to show. Generous: it bounds a hang.
const LONGEST: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(25);

/// By which key a WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Runs before every page: it notes what the content security policy stopped, and what failed without anybody noticing.
const WITNESS: &str = r"
window.__violations = [];
window.__errors = [];
document.addEventListener('securitypolicyviolation', (event) => window.__violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
window.addEventListener('error', (event) => window.__errors.push(event.message));
window.addEventListener('unhandledrejection', (event) => window.__errors.push(String(event.reason)));
";

/// Keys without a character.
pub mod key {
    /// Tab.
    pub const TAB: &str = "\u{E004}";
    /// Enter.
    pub const ENTER: &str = "\u{E007}";
    /// Escape.
    pub const ESCAPE: &str = "\u{E00C}";
    /// The arrow to the left.
    pub const LEFT: &str = "\u{E012}";
}

/// What a person prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// A browser with one window. It ends when dropped.
#[derive(Debug)]
pub struct Browser {
    guardian: Child,
    /// The address of its session at the driver.
    session: String,
    http: Client,
    _port: ReservedPort,
}

impl Browser {
    /// Starts a browser.
    ///
    /// # Panics
    /// If Chromium or its driver is not installed, or does not start.
    pub async fn start() -> Self {
        let port = ReservedPort::take();
        let folder = tempfile::Builder::new().prefix("gpufleet-browser-").tempdir().expect("a temporary folder").keep();
        let guardian = start_driver(&port, &folder);
        let http = Client::builder().no_proxy().timeout(LONGEST).build().expect("an HTTP client");
        let driver = format!("http://127.0.0.1:{}", port.number());
        let log = || std::fs::read_to_string(folder.join("driver.log")).unwrap_or_default();
        let status = format!("{driver}/status");
        let ready = async || call(&http, Method::GET, &status, None).await.is_ok_and(|status| status["ready"] == true);
        until("chromedriver is ready", ready).await;
        let opened = call(&http, Method::POST, &format!("{driver}/session"), Some(&capabilities())).await;
        let opened = opened.unwrap_or_else(|why| panic!("Chromium does not start: {why}\n{}", log()));
        let session = format!("{driver}/session/{}", opened["sessionId"].as_str().expect("a session"));
        let browser = Self { guardian, session, http, _port: port };
        browser.developer("Page.addScriptToEvaluateOnNewDocument", &json!({"source": WITNESS})).await;
        browser
    }

    /// Goes to an address.
    ///
    /// # Panics
    /// If nothing answers there.
    pub async fn open(&self, url: &str) {
        self.post("url", &json!({"url": url})).await.unwrap_or_else(|why| panic!("open {url}: {why}"));
    }

    /// The value of an expression of JavaScript in the page.
    ///
    /// # Panics
    /// If it fails.
    pub async fn value(&self, expression: &str) -> Value {
        let script = json!({"script": format!("return ({expression});"), "args": []});
        self.post("execute/sync", &script).await.unwrap_or_else(|why| panic!("{expression}: {why}"))
    }

    /// What an element shows.
    pub async fn text(&self, css: &str) -> String {
        let text = self.value(&format!("document.querySelector({})?.innerText ?? ''", json!(css))).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// How many elements there are.
    pub async fn count(&self, css: &str) -> u64 {
        self.value(&format!("document.querySelectorAll({}).length", json!(css))).await.as_u64().unwrap_or_default()
    }

    /// Waits until an expression of JavaScript holds in the page.
    ///
    /// # Panics
    /// After two minutes, with what the page shows.
    pub async fn until(&self, what: &str, expression: &str) {
        let begin = Instant::now();
        while self.value(&format!("Boolean({expression})")).await != true {
            assert!(begin.elapsed() < LONGEST, "waited in vain until {what}; the page shows:\n{}", self.text("body").await);
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Waits until an element shows a text.
    pub async fn until_shown(&self, css: &str, text: &str) {
        let expression = format!("[...document.querySelectorAll({})].some((one) => one.innerText.includes({}))", json!(css), json!(text));
        self.until(&format!("{css} shows {text:?}"), &expression).await;
    }

    /// Clicks on an element as soon as it is there and can be clicked on.
    ///
    /// # Panics
    /// If it never is.
    pub async fn click(&self, css: &str) {
        let begin = Instant::now();
        while let Err(why) = self.on_element(css, "click", &json!({})).await {
            assert!(begin.elapsed() < LONGEST, "click on {css}: {why}; the page shows:\n{}", self.text("body").await);
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Writes into a field in place of what is there.
    ///
    /// # Panics
    /// If there is no such field.
    pub async fn write(&self, css: &str, text: &str) {
        self.on_element(css, "clear", &json!({})).await.unwrap_or_else(|why| panic!("clear {css}: {why}"));
        self.on_element(css, "value", &json!({"text": text})).await.unwrap_or_else(|why| panic!("write into {css}: {why}"));
    }

    /// Presses keys, one after the other, wherever the focus is.
    ///
    /// # Panics
    /// If the driver refuses.
    pub async fn press(&self, keys: &[&str]) {
        let actions: Vec<Value> =
            keys.iter().flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]).collect();
        let keyboard = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.post("actions", &keyboard).await.unwrap_or_else(|why| panic!("press {keys:?}: {why}"));
    }

    /// Shows the page on a screen of this size, to a person who prefers this scheme.
    pub async fn look(&self, (width, height): (u32, u32), scheme: Scheme) {
        let scheme = if scheme == Scheme::Dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.developer("Emulation.setEmulatedMedia", &media).await;
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.developer("Emulation.setDeviceMetricsOverride", &screen).await;
    }

    /// Minimises the window: its page is hidden.
    ///
    /// # Panics
    /// If the driver refuses.
    pub async fn hide(&self) {
        self.post("window/minimize", &json!({})).await.expect("the window is minimised");
    }

    /// Brings the window back.
    ///
    /// # Panics
    /// If the driver refuses.
    pub async fn show(&self) {
        self.post("window/rect", &json!({"width": 1280, "height": 900})).await.expect("the window is shown");
    }

    /// What is seen, as PNG.
    ///
    /// # Panics
    /// If the driver refuses.
    pub async fn screenshot(&self) -> Vec<u8> {
        let taken = call(&self.http, Method::GET, &format!("{}/screenshot", self.session), None).await.expect("a screenshot");
        from_base64(taken.as_str().expect("text"))
    }

    /// What went wrong in the page since it was loaded: what its policy stopped, what nobody caught, and what the console has of errors since the last call. That something was not
    /// found at the server is no error.
    ///
    /// # Panics
    /// If the driver refuses.
    pub async fn troubles(&self) -> Vec<String> {
        let noted = self.value("[...(window.__violations ?? []), ...(window.__errors ?? [])]").await;
        let noted = noted.as_array().cloned().unwrap_or_default();
        let logged = self.post("se/log", &json!({"type": "browser"})).await.expect("the console's log");
        let logged = logged.as_array().cloned().unwrap_or_default();
        let errors = logged.iter().filter(|entry| entry["level"] == "SEVERE").map(|entry| entry["message"].clone());
        let all = noted.into_iter().chain(errors).map(|one| one.as_str().unwrap_or_default().to_owned());
        all.filter(|message| !message.contains("status of 404")).collect()
    }

    async fn on_element(&self, css: &str, verb: &str, body: &Value) -> Result<Value, String> {
        let found = self.post("element", &json!({"using": "css selector", "value": css})).await?;
        let element = found[ELEMENT].as_str().unwrap_or_default();
        self.post(&format!("element/{element}/{verb}"), body).await
    }

    /// A command of the developer tools, for what WebDriver cannot do.
    async fn developer(&self, command: &str, parameters: &Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.post("goog/cdp/execute", &body).await.unwrap_or_else(|why| panic!("{command}: {why}"));
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        call(&self.http, Method::POST, &format!("{}/{path}", self.session), Some(body)).await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ended = self.guardian.wait();
    }
}

fn start_driver(port: &ReservedPort, folder: &Path) -> Child {
    let driver =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("chromedriver").exists()));
    assert!(driver, "Chromium's driver is not installed: these tests need chromium and chromium-driver (run scripts/install-test-needs)");
    let mut command = Command::new("sh");
    command.args(["-c", GUARDIAN]).env("PORT", port.number().to_string());
    for variable in ["FOLDER", "TMPDIR", "HOME"] {
        command.env(variable, folder);
    }
    // Its own group: a Ctrl-C at the terminal must not end the guardian before the browser.
    let mut guardian = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().expect("sh can be started");
    let mut line = String::new();
    BufReader::new(guardian.stdout.take().expect("a pipe")).read_line(&mut line).expect("sh answers");
    assert_eq!(line, "started\n", "{}", folder.display());
    guardian
}

fn capabilities() -> Value {
    let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"];
    let always = json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}});
    json!({"capabilities": {"alwaysMatch": always}})
}

/// Asks the driver; what it refuses, in its words.
async fn call(http: &Client, method: Method, url: &str, body: Option<&Value>) -> Result<Value, String> {
    let request = http.request(method, url);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let went_well = answer.status().is_success();
    let value = answer.json::<Value>().await.map_err(|error| error.to_string())?["value"].take();
    if went_well { Ok(value) } else { Err(format!("{}: {}", value["error"], value["message"])) }
}

/// The bytes that a text of base64 stands for.
fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut held, mut bits) = (0_u32, 0);
    for digit in text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)) {
        held = ((held << 6) | digit as u32) & 0xFFFF;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_and_without_padding() {
        assert_eq!(from_base64("TWFu"), b"Man");
        assert_eq!(from_base64("TWE="), b"Ma");
        assert_eq!(from_base64("/+8AAQ=="), [0xFF, 0xEF, 0, 1]);
    }
}
