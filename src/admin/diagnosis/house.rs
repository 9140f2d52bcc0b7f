//! The configuration, the certificates, and whether we are there at all. Pure.

use super::{Facts, Finding, Severity, Text, finding};

pub fn not_ready(facts: &Facts<'_>) -> Option<Finding> {
    if facts.ready {
        return None;
    }
    Some(finding(
        "not_ready",
        Severity::Notice,
        ["网关没有就绪", "The gateway is not ready"],
        Text::new(
            "正在启动，或正在排空连接准备停止。",
            "It is starting, or draining before it stops.",
        ),
        ["无需处理；若持续，查看 /readyz。", "Nothing to do. If it stays: /readyz says why."],
    ))
}

pub fn the_file(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    if let Some((_, complaints)) = &facts.file.refused {
        let first = complaints.first().map(String::as_str).unwrap_or_default();
        found.push(finding(
            "config_refused",
            Severity::Warning,
            [
                "新的配置被拒绝，旧的仍在生效",
                "The new configuration was refused; the old one stays",
            ],
            Text::new(first, first),
            [
                "运行 wxgate check 看全部问题，改好保存即自动重载。",
                "`wxgate check` lists all complaints; a mended file is read by itself.",
            ],
        ));
    }
    if facts.file.wants_restart {
        found.push(finding(
            "restart_needed",
            Severity::Notice,
            ["有改动要重启才生效", "A change waits for a restart"],
            Text::new(
                "[server]、[store] 或日志格式变了。",
                "[server], [store] or the form of the log has changed.",
            ),
            ["方便时重启 wxgate。", "Restart wxgate when it suits you."],
        ));
    }
}

pub fn certificates_end(facts: &Facts<'_>, found: &mut Vec<Finding>) {
    const DAY: u64 = 86_400;
    for certificate in facts.certificates {
        let days = certificate.expires.since(facts.now) / DAY;
        let over = certificate.expires <= facts.now;
        let severity = match days {
            _ if over => Severity::Critical,
            0..=3 => Severity::Critical,
            4..=20 => Severity::Warning,
            _ => continue,
        };
        let names = certificate.names.join(", ");
        let detail = if over {
            Text::new(
                format!("{names} 的证书已过期。"),
                format!("The certificate of {names} has expired."),
            )
        } else {
            Text::new(
                format!("{names} 的证书还有 {days} 天到期。"),
                format!("The certificate of {names} ends in {days} days."),
            )
        };
        found.push(finding(
            "certificate_expiring",
            severity,
            ["证书即将到期", "A certificate ends soon"],
            detail,
            [
                "续期证书文件即可，网关自动读取，无需重启。",
                "Renew the files: the gateway reads them by itself.",
            ],
        ));
    }
}
