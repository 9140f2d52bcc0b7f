//! The configuration, the certificates, and whether we are there at all. Pure.

use super::{Bilingual, CertificateView, DiagnosisInput, Finding, FindingSeverity, finding, list};
use crate::clock::Timestamp;

pub fn not_ready(facts: &DiagnosisInput<'_>) -> Option<Finding> {
    if facts.ready {
        return None;
    }
    Some(finding(
        "not_ready",
        FindingSeverity::Notice,
        ["网关没有就绪", "The gateway is not ready"],
        Bilingual::new(
            "正在启动，或正在排空连接准备停止。",
            "It is starting, or draining before it stops.",
        ),
        ["无需处理；若持续，查看 /readyz。", "Nothing to do. If it stays: /readyz says why."],
    ))
}

pub fn the_file(facts: &DiagnosisInput<'_>, found: &mut Vec<Finding>) {
    if let Some((_, complaints)) = &facts.file.refused {
        let first = complaints.first().map(String::as_str).unwrap_or_default();
        found.push(finding(
            "config_refused",
            FindingSeverity::Warning,
            [
                "新的配置被拒绝，旧的仍在生效",
                "The new configuration was refused; the old one stays",
            ],
            Bilingual::new(first, first),
            [
                "运行 wxgate check 看全部问题，改好保存即自动重载。",
                "`wxgate check` lists all complaints; a mended file is read by itself.",
            ],
        ));
    }
    if facts.file.wants_restart {
        found.push(finding(
            "restart_needed",
            FindingSeverity::Notice,
            ["有改动要重启才生效", "A change waits for a restart"],
            Bilingual::new(
                "[server]、[store] 或日志格式变了。",
                "[server], [store] or the form of the log has changed.",
            ),
            ["方便时重启 wxgate。", "Restart wxgate when it suits you."],
        ));
    }
}

/// How bad it is that a certificate ends when it does. Renewals come when a third of the life is
/// left, at the latest: what lives for days only is no news before a quarter is.
pub fn ends_soon(certificate: &CertificateView, now: Timestamp) -> Option<FindingSeverity> {
    const DAY: u64 = 86_400;
    let left = certificate.expires.since(now);
    let life = certificate.expires.since(certificate.begins);
    match left / DAY {
        _ if certificate.expires <= now => Some(FindingSeverity::Critical),
        0..=3 if left < life / 8 => Some(FindingSeverity::Critical),
        0..=20 if left < life / 4 => Some(FindingSeverity::Warning),
        _ => None,
    }
}

pub fn certificates_end(facts: &DiagnosisInput<'_>, found: &mut Vec<Finding>) {
    const DAY: u64 = 86_400;
    for certificate in facts.certificates {
        let Some(severity) = ends_soon(certificate, facts.now) else { continue };
        let days = certificate.expires.since(facts.now) / DAY;
        let names = certificate.names.join(", ");
        let detail = if certificate.expires <= facts.now {
            Bilingual::new(
                format!("{names} 的证书已过期。"),
                format!("The certificate of {names} has expired."),
            )
        } else {
            Bilingual::new(
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
                "续期证书文件即可，网关自动读取，无需重启；[server.acme] 申请的证书自动续期，见下面的原因。",
                "Renew the files: the gateway reads them by itself. What [server.acme] orders is renewed by itself; if not, this page says why.",
            ],
        ));
    }
}

/// Names whose certificates did not come, those without any first.
pub fn orders_fail(facts: &DiagnosisInput<'_>, found: &mut Vec<Finding>) {
    let good = |name: &String| {
        let holds = |it: &CertificateView| it.names.contains(name) && facts.now < it.expires;
        facts.certificates.iter().any(holds)
    };
    let remedy = [
        "看原因：域名要解析到本机，公网 443 端口要直达 [server.tls]，中间不能有别的程序终止 TLS；网关会自动重试。见 deploy/TLS.md。",
        "By the reason: DNS has to lead here, and port 443 from the internet to [server.tls], with nothing in between that ends TLS. It is tried again by itself: deploy/TLS.md.",
    ];
    let ill = |wanted: bool| {
        let ill = facts.orders.iter().filter(|(_, vital)| !vital.healthy);
        list(ill.filter(|(name, _)| good(name) == wanted))
    };
    let (missing, old) = (ill(false), ill(true));
    if !missing.is_empty() {
        found.push(finding(
            "certificate_missing",
            FindingSeverity::Critical,
            ["域名没有可用的证书", "A name has no certificate"],
            Bilingual::new(
                format!("{missing}。访客的 TLS 握手失败。"),
                format!("{missing}. Visitors of it fail in the TLS handshake."),
            ),
            remedy,
        ));
    }
    if !old.is_empty() {
        found.push(finding(
            "certificate_not_renewed",
            FindingSeverity::Warning,
            ["证书续期失败", "A certificate could not be renewed"],
            Bilingual::new(
                format!("{old}。旧证书在到期前继续使用。"),
                format!("{old}. The old one is used until it ends."),
            ),
            remedy,
        ));
    }
}
