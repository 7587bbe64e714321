package recorder

import (
	"strings"
	"testing"
)

func TestSegmentsOfUnknownPaths(t *testing.T) {
	for _, s := range strings.Fields(`x7Kp2QzR a1b2c3 aBcDeF KpQzRtWx alice.miller Alice.M.Miller alice1990 invite-x7Kp2QzR 2024abcd k3jhfdk
		order-48151 alice.miller.php abc12def alice.v2 alice.login alice.miller.login user.alice v2x7Kp v2abc9 xK2fa9 aBcDeF2fa v1beta1x k8sx7Kp2
		u2fXyZwVuT v1234567 v12beta345 aBcDV2x alice1990.miller KpQzRtV2`) {
		if !personal(s) {
			t.Errorf("%s is shown", s)
		}
	}
	for _, s := range strings.Fields(`v2 oauth2 oauth2-callback oauth2callback changePassword ChangePassword getUserByEmail signIn verifyOTP resendOTPCode getURLOf OPTIONS
		README wp-login.php favicon.ico robots.txt jquery.js .well-known .env.bak sha256 users step-1 2fa-verify webauthn_v2 two-factor 2fa saml2 api-2024
		zitadel.user.v2.UserService send-verification-otp x7Kp2 accept userAPIKeys createAPIToken OAuthCallback web3auth
		disable2fa verify2fa login2FA enable2Fa u2f-register v2beta v1beta1 v3alpha v1rc2 v2alpha1-users i18n-messages k8s-login b2b-portal b2c-login l10n-texts saml2p0 saml2-acs
		signInV2 signInV1beta1 u2fRegister k8sLogin i18nMessages v2Users reset.password user.password.reset user.v2 zitadel.user.v2beta.UserService
		zitadel.user.v2beta.Users google.iam.v1.getPolicy reset.password.html getUsersV2-list`) {
		if personal(s) {
			t.Errorf("%s is hidden", s)
		}
	}
}
