//! Asks who made the Jobs that own pods of this node: a Job says so, its pods do not. Nobody waits for the answer: until
//! then the Job's name tells.

use std::time::Duration;

use kube::Client;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::objects::{ObjectKey, Owner};
use super::pods::PodState;
use super::standing::Trouble;
use super::wire::JobWire;

/// Jobs asked for in one go, one after the other.
const AT_A_TIME: usize = 32;
/// After an API server refused, or did not answer, it is not asked for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct JobAsker {
    client: Client,
    asking: Option<JoinHandle<Answers>>,
    not_before: Option<Instant>,
}

/// What was answered, and what went wrong then.
struct Answers {
    owners: Vec<(ObjectKey, Option<Owner>)>,
    trouble: Option<Trouble>,
}

impl JobAsker {
    /// Asks by this client, which wants no more than metadata.
    pub(super) fn new(client: Client) -> Self {
        Self { client, asking: None, not_before: None }
    }

    /// Takes in what was answered, and asks what is unknown. To be called now and then.
    pub(super) async fn round(&mut self, pods: &mut PodState) {
        if let Some(asking) = self.asking.take_if(|asking| asking.is_finished())
            && let Ok(answers) = asking.await
        {
            answers.owners.into_iter().for_each(|(job, owner)| pods.answer(job, owner));
            self.not_before = answers.trouble.map(|trouble| {
                let refused = matches!(trouble, Trouble::Forbidden | Trouble::Unauthorized);
                if refused {
                    tracing::info!(
                        "Jobs may not be asked for; CronJobs are known by the names of their Jobs"
                    );
                }
                Instant::now() + if refused { REFUSED_PAUSE } else { FAILED_PAUSE }
            });
        }
        if self.asking.is_some() || self.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let jobs = pods.unasked_jobs(AT_A_TIME);
        if !jobs.is_empty() {
            self.asking = Some(tokio::spawn(ask(self.client.clone(), jobs)));
        }
    }
}

async fn ask(client: Client, jobs: Vec<ObjectKey>) -> Answers {
    let mut answers = Answers { owners: Vec::new(), trouble: None };
    for job in jobs {
        let path = format!("/apis/batch/v1/namespaces/{}/jobs/{}", job.namespace, job.name);
        let Ok(request) = axum::http::Request::get(path).body(Vec::new()) else { continue };
        match client.request::<JobWire>(request).await.map_err(|error| Trouble::of_client(&error)) {
            Ok(found) => answers.owners.push((job, found.owner())),
            // It went with its pods, or is nothing anybody can read.
            Err(Trouble::NotFound | Trouble::Unreadable) => answers.owners.push((job, None)),
            Err(trouble) => {
                answers.trouble = Some(trouble);
                break;
            }
        }
    }
    answers
}
