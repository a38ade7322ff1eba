//! nginx, as tests have it serve: its configuration, its certificate and its process. Knows how nginx wants to be told; what is
//! asked of it, and what that is to come to, is the tests' business.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::program::Program;
use crate::world::{CHECKOUT, World};

/// Pages of a server, by what becomes of who asks for them: `/`, `/missing`, `/broken`, `/created`.
pub const PAGES: &str = "location / { return 200 \"fine\\n\"; } location /missing { return 404; } \
                         location /broken { return 503; } location /created { return 201; }";

/// An nginx that is not started yet, of one worker unless it is told otherwise. What it writes and reads is in a directory of the
/// world's.
#[derive(Debug)]
pub struct Nginx<'w> {
    world: &'w World,
    root: PathBuf,
    unit: Option<String>,
    processes: &'static str,
    directives: String,
    servers: String,
    awaited: Option<String>,
    speaks_tls: bool,
}

impl<'w> Nginx<'w> {
    /// One that serves nothing, in the unit of clients.
    ///
    /// # Panics
    /// When its directory cannot be made.
    pub fn new(world: &'w World) -> Self {
        let root = world.directory().join("nginx");
        fs::create_dir_all(root.join("files")).expect("a directory");
        let (directives, servers) = (String::new(), String::new());
        let (unit, processes) = (Some(CHECKOUT.to_owned()), "worker_processes 1;");
        Self { world, root, unit, processes, directives, servers, awaited: None, speaks_tls: false }
    }

    /// In this unit below the managed cgroup.
    #[must_use]
    pub fn in_unit(mut self, unit: &str) -> Self {
        self.unit = Some(unit.to_owned());
        self
    }

    /// Where the programs do not see it.
    #[must_use]
    pub fn outside(mut self) -> Self {
        self.unit = None;
        self
    }

    /// Without a worker: the process that is started serves, and takes the signals.
    #[must_use]
    pub fn of_one_process(mut self) -> Self {
        self.processes = "master_process off;";
        self
    }

    /// Adds a directive for all its servers, as in `large_client_header_buffers 4 128k;`.
    #[must_use]
    pub fn directive(mut self, directive: &str) -> Self {
        self.directives.push_str(directive);
        self.directives.push('\n');
        self
    }

    /// Adds a file, which a location without a word of its own serves under its name.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.root.join("files").join(name), content).expect("a file");
        self
    }

    /// Adds a server that listens there, each an address with what else nginx's `listen` takes, and does this.
    #[must_use]
    pub fn serve(mut self, listens: &[&str], block: &str) -> Self {
        let address = listens.first().and_then(|listen| listen.split(' ').next());
        if self.awaited.is_none() {
            self.awaited = address.map(str::to_owned);
        }
        let listens: String = listens.iter().map(|listen| format!("listen {listen}; ")).collect();
        self.servers.push_str(&format!("server {{ {listens}{block} }}\n"));
        self
    }

    /// The same with TLS, by a certificate that nobody else signed.
    #[must_use]
    pub fn serve_tls(mut self, listen: &str, block: &str) -> Self {
        self.speaks_tls = true;
        let (key, certificate) = (self.path("key"), self.path("certificate"));
        let block = format!("ssl_certificate {certificate}; ssl_certificate_key {key}; {block}");
        self.serve(&[&format!("{listen} ssl")], &block)
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    /// When it serves nothing, or does not listen in time, with what it said.
    pub fn start(self) -> Program {
        if self.speaks_tls {
            self.sign();
        }
        fs::write(self.path("nginx.conf"), self.config()).expect("a configuration");
        // Until it has read where to complain, it would do so in a file of the machine's.
        let file = self.path("nginx.conf");
        let arguments = ["-e", "stderr", "-c", &file];
        let nginx = match &self.unit {
            Some(unit) => self.world.start_in(unit, "nginx", &arguments),
            None => {
                let mut command = Command::new("nginx");
                command.args(arguments);
                self.world.start_outside(command)
            }
        };
        self.world.await_listener(&self.awaited.expect("it serves something"), &nginx);
        nginx
    }

    fn config(&self) -> String {
        let Self { processes, directives, servers, .. } = self;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {}; ", self.path(kind)))
            .collect();
        // As root, since nobody else reads the directory of a test.
        format!(
            "user root; {processes} daemon off; pid {}; error_log stderr;
events {{ worker_connections 512; }}
http {{
access_log off; keepalive_requests 10000000; client_max_body_size 8m; root {};
{temporary}
{directives}{servers}}}
",
            self.path("pid"),
            self.path("files")
        )
    }

    /// Makes its certificate.
    fn sign(&self) {
        // Its own configuration, wherever OpenSSL would look for one.
        let settings = self.path("openssl.cnf");
        fs::write(&settings, "[req]\ndistinguished_name = name\n[name]\n").expect("a file for openssl");
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let (key, certificate) = (self.path("key"), self.path("certificate"));
        let files = ["-config", &settings, "-keyout", &key, "-out", &certificate];
        let request = [&["req", "-x509", "-days", "1", "-subj", "/CN=web"][..], &curve, &files].concat();
        self.world.run("openssl", &request).expect_success();
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }
}
