//! What the process says of itself, read from `/proc` when somebody asks. What can't be read is left out.

use fumehood_core::metric::{self, Metric};
use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

/// Clock ticks per second in what the kernel shows to processes: fixed on the architectures that this host runs on.
const TICKS: f64 = 100.0;

/// Whether this file, and not the recorder, writes a metric.
pub(super) fn writes(metric: &Metric) -> bool {
    metric.name.starts_with("process_") || *metric == metric::BUILD_INFO
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Adds what is known of the process to a page.
pub(super) fn write(page: &mut String, started: f64) {
    let labels = super::build()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .join(",");
    head(page, &metric::BUILD_INFO);
    let _ = writeln!(page, "{}{{{labels}}} 1\n", metric::BUILD_INFO.name);
    let status = read("status");
    let values = [
        (&metric::PROCESS_START, Some(started)),
        (&metric::PROCESS_CPU, read("stat").as_deref().and_then(cpu_seconds)),
        (
            &metric::PROCESS_RESIDENT,
            status.as_deref().and_then(|status| kibibytes(status, "VmRSS:")),
        ),
        (
            &metric::PROCESS_VIRTUAL,
            status.as_deref().and_then(|status| kibibytes(status, "VmSize:")),
        ),
        (
            &metric::PROCESS_THREADS,
            status.as_deref().and_then(|status| field(status, "Threads:")),
        ),
        (&metric::PROCESS_FDS, open_files()),
        (&metric::PROCESS_MAX_FDS, read("limits").as_deref().and_then(most_files)),
    ];
    for (metric, value) in values {
        if let Some(value) = value {
            head(page, metric);
            let _ = writeln!(page, "{} {value}\n", metric.name);
        }
    }
}

fn head(page: &mut String, metric: &Metric) {
    let Metric { name, kind, doc, .. } = metric;
    let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {}", doc.trim(), kind.as_str());
}

fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/self/{file}")).ok()
}

/// User and system time. The name of the program, in parentheses, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn kibibytes(status: &str, name: &str) -> Option<f64> {
    field(status, name).map(|kibibytes| kibibytes * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "a process has far fewer files")]
fn open_files() -> Option<f64> {
    // Looking has one of them open itself.
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(files.saturating_sub(1) as f64)
}

fn most_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => None,
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_name_of_the_program() {
        let stat = "7 (a) b 1 (c) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1000 10";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn the_fields_of_status_and_limits_are_read() {
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t     12 kB\nThreads:\t9\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(12_288.0));
        assert_eq!(field(status, "Threads:"), Some(9.0));
        assert_eq!(field(status, "Nothing:"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(most_files(limits), Some(1024.0));
    }
}
