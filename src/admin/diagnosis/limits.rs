//! Limits of the process that visitors meet: connections and file descriptors. Pure.

use super::{Bilingual, DiagnosisInput, Finding, FindingSeverity, finding};

/// All `connections` were taken when new ones came.
pub fn connections_are_taken(facts: &DiagnosisInput<'_>) -> Option<Finding> {
    let times = met(facts, "connections")?;
    let (held, limit) = (facts.connections, facts.connection_limit);
    Some(finding(
        "connections_full",
        FindingSeverity::Warning,
        ["连接数已满", "All connections are taken"],
        Bilingual::new(
            format!(
                "connections 上限为 {limit}，现有 {held} 个；最近一分钟有 {times} 个新连接到来时已满，空闲最久的连接已为其关闭。若所有连接都在处理请求，新访客要等待。"
            ),
            format!(
                "`connections` is {limit} and {held} are open; {times} new connections of the last minute found no place. The longest idle ones are closed for them. While all have requests under way, new visitors wait."
            ),
        ),
        [
            "日志行 connection limit reached 写明哪个地址占用最多：若是攻击，在防火墙拦截它，或设置 connections_per_client；若访客确实这么多，调大 [server.limits] connections 与 LimitNOFILE。见 docs/limits.md。",
            "The log line `connection limit reached` names the address that holds most. If it attacks you, block it in the firewall, or set connections_per_client; if you have that many visitors, raise [server.limits] connections and LimitNOFILE. See docs/limits.md.",
        ],
    ))
}

/// The system gave out no file descriptor.
pub fn descriptors_are_exhausted(facts: &DiagnosisInput<'_>) -> Option<Finding> {
    let times = met(facts, "descriptors")?;
    Some(finding(
        "descriptors_exhausted",
        FindingSeverity::Critical,
        ["文件描述符用尽", "No file descriptor is left"],
        Bilingual::new(
            format!(
                "最近一分钟有 {times} 次无法打开连接：进程或系统的打开文件数已到上限。站点和微信本身并没有问题。"
            ),
            format!(
                "{times} connections of the last minute could not be opened: the process or the system has as many files open as it may. Nothing is wrong with the sites or with WeChat."
            ),
        ),
        [
            "调大服务的 LimitNOFILE（或 ulimit -n），wxgate check 会算出需要多少；若进程远未到上限，则是整个系统的 fs.file-max。见 docs/limits.md。",
            "Raise LimitNOFILE of the service (or `ulimit -n`): `wxgate check` says how many are needed. If the process is far from its limit, it is fs.file-max of the system. See docs/limits.md.",
        ],
    ))
}

fn met(facts: &DiagnosisInput<'_>, limit: &str) -> Option<u64> {
    let count = facts.limits.iter().find(|([key], _)| key == limit).map(|(_, count)| *count);
    count.filter(|count| *count > 0)
}
