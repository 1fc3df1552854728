/* What the bindings are made of besides xenctrl.h: the header of HVM operations, and values that a generator of bindings cannot
 * work out for itself, as members of an enumeration. */
#include <stddef.h>
#define XC_WANT_COMPAT_MAP_FOREIGN_API
#include <xenctrl.h>
#include <xen/hvm/hvm_op.h>
#include <xen/foreign/x86_32.h>
#include <xen/foreign/x86_64.h>

enum oracle {
    ORACLE_DOMID_XEN = DOMID_XEN,
    ORACLE_DOMID_FIRST_RESERVED = DOMID_FIRST_RESERVED,
    ORACLE_DOMCTL_VERSION = XEN_DOMCTL_INTERFACE_VERSION,
    ORACLE_SYSCTL_VERSION = XEN_SYSCTL_INTERFACE_VERSION,
    ORACLE_SYSCTL_BODY = sizeof(((struct xen_sysctl *)0)->u),
    ORACLE_DOMCTL_BODY = sizeof(((struct xen_domctl *)0)->u),
    ORACLE_CONTEXT_64 = sizeof(struct vcpu_guest_context_x86_64),
    ORACLE_CONTEXT_32 = sizeof(struct vcpu_guest_context_x86_32),
    ORACLE_EAX_64 = offsetof(struct vcpu_guest_context_x86_64, user_regs.rax),
    ORACLE_EAX_32 = offsetof(struct vcpu_guest_context_x86_32, user_regs.eax),
    ORACLE_MSR = sizeof(struct xen_domctl_vcpu_msr),
    ORACLE_PFINFO_L2TAB = XEN_DOMCTL_PFINFO_L2TAB,
    ORACLE_PFINFO_L4TAB = XEN_DOMCTL_PFINFO_L4TAB,
    ORACLE_PFINFO_SHIFT = XEN_DOMCTL_PFINFO_LTAB_SHIFT,
};

/* Those of the highest bit, which are no int. */
enum oracle_high {
    ORACLE_PFINFO_LPINTAB = XEN_DOMCTL_PFINFO_LPINTAB >> XEN_DOMCTL_PFINFO_LTAB_SHIFT,
    ORACLE_PFINFO_BROKEN = XEN_DOMCTL_PFINFO_BROKEN >> XEN_DOMCTL_PFINFO_LTAB_SHIFT,
    ORACLE_PFINFO_XTAB = XEN_DOMCTL_PFINFO_XTAB >> XEN_DOMCTL_PFINFO_LTAB_SHIFT,
};
