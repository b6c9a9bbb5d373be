//! A private RabbitMQ for tests: the installed server, started as an ordinary program from a temporary folder on ports of its own of 127.0.0.1.
//!
//! It ends with the test process, however that ends: a small shell is its parent and kills it (and its epmd) when the pipe from the test
//! process closes. No other server on the machine is touched.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::config::SecretUrl;
use tokio::sync::OnceCell;

use crate::{ports::ReservedPort, until::until};

const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// What nodes of one cluster know in common.
const COOKIE: &str = ".erlang.cookie";

/// Starts epmd and the server in process groups of their own, says when, and waits for a line or the end of its input. After the end
/// nobody needs the folder any more.
const GUARDIAN: &str = r#"
setsid epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 >/dev/null 2>&1 & epmd=$!
setsid "$PROGRAMS/rabbitmq-server" >>"$FOLDER/server.log" 2>&1 & server=$!
echo started
read -r keep
gone=$?
kill -9 "-$server" 2>/dev/null
kill -9 "-$epmd" 2>/dev/null
wait
[ "$gone" = 0 ] || rm -rf "$FOLDER"
"#;

/// What a user may do: regular expressions over the names of queues and exchanges, as in `rabbitmqctl set_permissions`.
#[derive(Debug, Clone, Copy)]
pub struct Permissions<'a> {
    /// What it may declare and delete.
    pub configure: &'a str,
    /// What it may publish to.
    pub write: &'a str,
    /// What it may consume.
    pub read: &'a str,
}

/// One RabbitMQ server.
#[derive(Debug)]
pub struct PrivateRabbitMq {
    folder: PathBuf,
    node: String,
    amqp: ReservedPort,
    distribution: ReservedPort,
    /// Where the nodes of a cluster find each other; the first of them has it.
    epmd: Arc<ReservedPort>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    guardian: Child,
    pipe: ChildStdin,
}

impl PrivateRabbitMq {
    /// The server that all tests of this process share. They keep apart by the prefix of their names.
    ///
    /// # Panics
    /// If RabbitMQ is not installed or does not start.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<PrivateRabbitMq> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A server of one's own, to stop, kill and alarm. It ends when dropped.
    ///
    /// # Panics
    /// If RabbitMQ is not installed or does not start.
    pub async fn start() -> Self {
        assert!(
            Path::new(PROGRAMS).join("rabbitmq-server").exists(),
            "RabbitMQ is not installed: these tests need {PROGRAMS}/rabbitmq-server (Debian package rabbitmq-server)"
        );
        let server = Self::on(Arc::new(ReservedPort::take()), &fresh_name());
        server.start_again().await;
        server
    }

    /// A second node of this server's cluster, with data of its own. This server must outlive it.
    ///
    /// # Panics
    /// If it does not start or join.
    pub async fn start_beside(&self) -> Self {
        let cookie = fs::read_to_string(self.folder.join(COOKIE)).expect("the first node's cookie");
        let server = Self::on(Arc::clone(&self.epmd), &cookie);
        server.start_again().await;
        server.control(&["stop_app"]).await;
        server.control(&["join_cluster", &self.node]).await;
        server.control(&["start_app"]).await;
        server
    }

    fn on(epmd: Arc<ReservedPort>, cookie: &str) -> Self {
        let (amqp, distribution) = (ReservedPort::take(), ReservedPort::take());
        let name = fresh_name();
        let folder = std::env::temp_dir().join(format!("gpufleet-rabbitmq-{name}"));
        let server = Self { folder, node: format!("test-{name}@localhost"), amqp, distribution, epmd, running: Mutex::new(None) };
        server.write_folder(cookie).expect("a folder for the server");
        server
    }

    /// Starts the server that was stopped or killed, with its data, on the same port.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&self) {
        let mut guardian = self.command("sh").args(["-c", GUARDIAN]).process_group(0).spawn().expect("sh starts");
        let pipe = guardian.stdin.take().expect("a piped input");
        let mut line = String::new();
        BufReader::new(guardian.stdout.take().expect("a piped output")).read_line(&mut line).expect("a line");
        assert_eq!(line, "started\n");
        *self.running() = Some(Running { guardian, pipe });
        let url = self.url();
        let accepts = async || {
            let connecting = lapin::Connection::connect(url.reveal(), lapin::ConnectionProperties::default());
            matches!(tokio::time::timeout(Duration::from_secs(5), connecting).await, Ok(Ok(_)))
        };
        until("the private RabbitMQ accepts connections", accepts).await;
    }

    /// Stops the server in an orderly way; its data stays for [`PrivateRabbitMq::start_again`].
    pub async fn stop(&self) {
        self.control(&["stop_app"]).await;
        self.kill();
    }

    /// Kills the server with SIGKILL; its data stays for [`PrivateRabbitMq::start_again`].
    pub fn kill(&self) {
        let Some(Running { mut guardian, mut pipe }) = self.running().take() else { return };
        pipe.write_all(b"keep\n").expect("the guardian listens");
        guardian.wait().expect("the guardian ends");
    }

    /// The URL of the administrator on the default virtual host.
    #[must_use]
    pub fn url(&self) -> SecretUrl {
        SecretUrl::new(format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port()))
    }

    /// Adds a user with these rights (or changes them) and returns its URL.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn url_for(&self, user: &str, permissions: Permissions<'_>) -> SecretUrl {
        if !self.try_control(&["add_user", user, "secret"]).await {
            self.control(&["change_password", user, "secret"]).await;
        }
        let Permissions { configure, write, read } = permissions;
        self.control(&["set_permissions", "-p", "/", user, configure, write, read]).await;
        SecretUrl::new(format!("amqp://{user}:secret@127.0.0.1:{}/%2f", self.port()))
    }

    /// Raises or ends the memory alarm: while it lasts the server blocks publishers.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn alarm(&self, on: bool) {
        self.control(&["set_vm_memory_high_watermark", if on { "0.000001" } else { "0.6" }]).await;
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.amqp.number()
    }

    /// Runs `rabbitmqctl` on this server.
    ///
    /// # Panics
    /// If it fails.
    pub async fn control(&self, arguments: &[&str]) {
        assert!(self.try_control(arguments).await, "rabbitmqctl {arguments:?} failed\n{}", self.log());
    }

    /// Lets the process of a classic queue hang: it takes messages, and neither confirms nor delivers any.
    ///
    /// # Panics
    /// If there is no such queue.
    pub async fn suspend(&self, queue: &str) {
        self.with_process_of(queue, "sys:suspend").await;
    }

    /// Ends what [`PrivateRabbitMq::suspend`] began.
    ///
    /// # Panics
    /// If there is no such queue.
    pub async fn resume(&self, queue: &str) {
        self.with_process_of(queue, "sys:resume").await;
    }

    async fn with_process_of(&self, queue: &str, function: &str) {
        let found = format!(r#"{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>))"#);
        self.control(&["eval", &format!("{found}, ok = {function}(amqqueue:get_pid(Queue)).")]).await;
    }

    /// How many connections this user has.
    ///
    /// # Panics
    /// If the server does not say.
    pub async fn connections_of(&self, user: &str) -> usize {
        let listed = self.run_control(&["-q", "list_connections", "user"]).await;
        assert!(listed.status.success(), "rabbitmqctl list_connections failed\n{}", self.log());
        String::from_utf8_lossy(&listed.stdout).lines().filter(|line| *line == user).count()
    }

    /// What `rabbitmqctl` lists on this server, headings included; nothing where it fails.
    pub async fn listed(&self, arguments: &[&str]) -> String {
        let quietly = [&["-q"], arguments].concat();
        let listed = self.run_control(&quietly).await;
        if listed.status.success() { String::from_utf8_lossy(&listed.stdout).into_owned() } else { String::new() }
    }

    /// The end of the server's log, for the message of a failing test.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(50)..].join("\n")
    }

    async fn try_control(&self, arguments: &[&str]) -> bool {
        self.run_control(arguments).await.status.success()
    }

    async fn run_control(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(&format!("{PROGRAMS}/rabbitmqctl"));
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
        output.expect("rabbitmqctl starts")
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_folder(&self, cookie: &str) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(COOKIE);
        fs::write(&path, cookie)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400))?;
        fs::write(self.folder.join("enabled_plugins"), "[].")?;
        let mut config = String::new();
        let settings = [
            format!("listeners.tcp.default = 127.0.0.1:{}", self.port()),
            "disk_free_limit.absolute = 1MB".to_owned(),
            "log.console = true".to_owned(),
            "log.console.level = warning".to_owned(),
            "log.file = false".to_owned(),
        ];
        for setting in settings {
            writeln!(config, "{setting}").map_err(std::io::Error::other)?;
        }
        fs::write(self.folder.join("rabbitmq.conf"), config)
    }

    /// A program in the server's environment.
    fn command(&self, program: &str) -> Command {
        let [amqp, distribution, epmd] = [&self.amqp, &self.distribution, &*self.epmd].map(|port| port.number().to_string());
        let folder = |name: &str| self.folder.join(name);
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(&self.folder);
        command.env("PROGRAMS", PROGRAMS).env("FOLDER", &self.folder).env("HOME", &self.folder).env("LANG", "C.UTF-8");
        command.env("ERL_EPMD_PORT", epmd).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_NODENAME", &self.node).env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", amqp);
        command.env("RABBITMQ_DIST_PORT", distribution).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
        command.env("RABBITMQ_CONFIG_FILE", folder("rabbitmq.conf")).env("RABBITMQ_ENABLED_PLUGINS_FILE", folder("enabled_plugins"));
        command.env("RABBITMQ_MNESIA_BASE", folder("data")).env("RABBITMQ_LOG_BASE", folder("log"));
        command.env("RABBITMQ_GENERATED_CONFIG_DIR", folder("generated")).env("RABBITMQ_SCHEMA_DIR", folder("schema"));
        command
    }
}

impl Drop for PrivateRabbitMq {
    fn drop(&mut self) {
        if let Some(Running { mut guardian, pipe }) = self.running().take() {
            drop(pipe);
            let _ended = guardian.wait();
        } else {
            let _removed = fs::remove_dir_all(&self.folder);
        }
    }
}

fn fresh_name() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
